"""A folder of WFDB or Challenge records, with PTB-XL's table where it is there."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from latentcast.signals.readers import ptbxl, wfdb
from latentcast.signals.readers.source import Annotation, RecordRef
from latentcast.signals.recording import Recording


class WfdbFolder:
    """All records below ``root``.

    Args:
        root: the folder.
        sampling_rate: which of PTB-XL's two sets of files to read, where both are there.
        verify_checksums: compare every file with ``SHA256SUMS.txt``, where ``root`` has one.
    """

    sampling_rate: float | None = None
    native_leads: tuple[str, ...] | None = None
    batch = 32

    def __init__(
        self, root: Path, sampling_rate: float | None = None, *, verify_checksums: bool = True
    ) -> None:
        self.root = root
        self.name = root.resolve().name
        self._annotations: dict[str, Annotation] | None = None
        self._refs: list[RecordRef]
        if (root / ptbxl.TABLE).is_file():
            self.kind = "ptbxl"
            self._refs, self._annotations = ptbxl.list_records(root, sampling_rate)
        else:
            self.kind = "wfdb"
            self._refs = wfdb.list_records(root)
        self._sha256: dict[str, dict[str, str]] = defaultdict(dict)
        if verify_checksums:
            for file, digest in wfdb.read_checksums(root).items():
                path = PurePosixPath(file)
                self._sha256[str(path.parent)][path.name] = digest

    def refs(self) -> Sequence[RecordRef]:
        return self._refs

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for ref in self._refs:
            path = self.root / ref.file
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{ref.record_id}\t{ref.file}\t{size}\n".encode())
        if self._annotations is not None:
            digest.update((self.root / ptbxl.TABLE).read_bytes())
        return digest.hexdigest()

    def read(self, ref: RecordRef) -> tuple[Recording, Annotation]:
        folder = str(PurePosixPath(ref.file).parent)
        recording, annotation = wfdb.read(self.root / ref.file, self._sha256.get(folder))
        if self._annotations is not None:
            annotation = self._annotations[ref.record_id]
        return recording, annotation
