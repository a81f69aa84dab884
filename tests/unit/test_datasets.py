"""Public data sets, as small copies of their layout: patients, labels, leads and rate."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ecg_files import write_challenge, write_wfdb
from test_tables import reasons

from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.errors import LatentcastError
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.recording import Recording, from_signal, select_leads
from latentcast.signals.synthetic import synthetic_recording


def ecg(seed: int, rate: float = 500, seconds: float = 2) -> Recording:
    return synthetic_recording(60 + seed, rate, seconds, seed=seed)


def ptb(folder: Path) -> None:
    for n, name in enumerate(["patient001/s0010_re", "patient001/s0014lre", "patient104/s0306lre"]):
        recording = ecg(n, 1000)
        leads = [*(lead.lower() for lead in recording.leads), "vx"]
        frank = np.vstack([recording.signal, recording.signal[:1]])
        recording = from_signal(frank, (*recording.leads, "vx"), 1000, name)
        reason = "Healthy control" if n else "Myocardial infarction"
        comments = ["age: 81", "sex: female", "Diagnose:", f"Reason for admission: {reason}"]
        path = Path(name)
        write_wfdb(folder / path.parent, recording, path.name, leads=leads, comments=comments)


def mit_bih(folder: Path) -> None:
    for n, name in enumerate(["201", "202", "234"]):
        recording = select_leads(ecg(n, 360), ("II", "V1"), mask_missing=False)
        comments = ["68 M 1960 2851 x1", "Digoxin, Hydrochlorthiazide"]
        write_wfdb(folder, recording, name, leads=["MLII", "V1"], comments=comments)


def cinc2011(folder: Path) -> None:
    for n, name in enumerate(["1005639", "1009404", "1034914"]):
        write_wfdb(folder / "set-a", ecg(n), name)
    (folder / "set-a" / "RECORDS-acceptable").write_text("1005639\n")
    (folder / "set-a" / "RECORDS-unacceptable").write_text("1009404\n")


def ludb(folder: Path) -> None:
    comments = ["<age>: 51", "<sex>: F", "<diagnoses>:", "Rhythm: Sinus rhythm."]
    for n in (1, 2):
        leads = [lead.lower() for lead in CANONICAL_LEADS]
        write_wfdb(folder / "data", ecg(n), str(n), leads=leads, comments=comments)
    (folder / "ludb.csv").write_text("ID,Sex,Age\n1,F,51\n")


def incart(folder: Path) -> None:
    for n, name in enumerate(["I01", "I02"]):
        lines = [
            "<age>: 65 <sex>: F <diagnoses> Coronary artery disease, hypertension",
            "patient 1",
        ]
        write_wfdb(folder, ecg(n, 257), name, comments=lines)


def chapman(folder: Path) -> None:
    comments = ["Age: 85", "Sex: Male", "Dx: 164889003,59118001", "Rx: Unknown"]
    for n in (1, 2):
        write_challenge(folder / "WFDBRecords/01/010", ecg(n), f"JS0000{n}", comments)


def cpsc_and_georgia(folder: Path) -> None:
    comments = ["Age: 74", "Sex: Male", "Dx: 59118001", "Rx: Unknown"]
    for n, name in enumerate(["cpsc_2018/g1/A0001", "georgia/g1/E00001"]):
        write_challenge(folder / Path(name).parent, ecg(n), Path(name).name, comments)


def mimic(folder: Path) -> None:
    paths = []
    for n, (subject, study) in enumerate([("10000032", "40689238"), ("10000032", "44458630")]):
        path = Path("files", f"p{subject[:4]}", f"p{subject}", f"s{study}", study)
        recording = ecg(n)
        # The order of the leads in its files.
        order = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
        write_wfdb(folder / path.parent, select_leads(recording, order, mask_missing=False), study)
        paths.append(f"{subject},{study},{study},2180-07-23 08:44:00,{path}\n")
    head = "subject_id,study_id,file_name,ecg_time,path\n"
    (folder / "record_list.csv").write_text(head + "".join(paths))
    (folder / "machine_measurements.csv").write_text(
        "subject_id,study_id,cart_id,ecg_time,report_0,report_1,report_2,rr_interval,p_axis\n"
        '10000032,40689238,6848296,2180-07-23 08:44:00,Sinus rhythm,"Prolonged QT, borderline",,'
        "659,29999\n"
    )


def hdf5(path: Path, exams: list[int] | None, recordings: list[np.ndarray]) -> None:
    h5py = pytest.importorskip("h5py")
    tracings = np.zeros((len(recordings), 4096, 12), np.float32)
    for row, recording in zip(tracings, recordings, strict=True):
        before = (4096 - recording.shape[1]) // 2
        row[before : before + recording.shape[1]] = recording.T
    with h5py.File(path, "w") as file:
        file["tracings"] = tracings
        if exams is not None:
            file["exam_id"] = exams


def code15(folder: Path) -> None:
    seven, ten = ecg(1, 400, 7).signal, ecg(2, 400, 10).signal
    hdf5(folder / "exams_part0.hdf5", [1169160, 2873686], [seven, np.zeros((12, 9))])
    hdf5(folder / "exams_part17.hdf5", [271011], [ten])
    (folder / "exams.csv").write_text(
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,"
        "normal_ecg,trace_file\n"
        "1169160,38,True,40.1,False,True,False,False,False,True,523632,False,2.0,False,exams_part0.hdf5\n"
        "271011,83,False,74.8,False,False,False,False,False,False,1710,,,True,exams_part17.hdf5\n"
    )


def samitrop(folder: Path) -> None:
    hdf5(folder / "exams.hdf5", None, [ecg(1, 400, 7).signal, ecg(2, 400, 10).signal])
    (folder / "exams.csv").write_text(
        "exam_id,age,is_male,normal_ecg,death,timey,nn_predicted_age\n"
        "1014,60,True,True,False,2.1,58.2\n1203,72,False,False,True,1.1,70.9\n"
    )


MI, NORMAL = {"Myocardial infarction"}, {"Healthy control"}
CODES = {"164889003", "59118001"}
DATA_SETS = {
    ptb: ("PTB Diagnostic", {"s0010_re": ("001", MI), "s0014lre": ("001", NORMAL),
                             "s0306lre": ("104", NORMAL)}),
    mit_bih: ("MIT-BIH", {"201": ("201", set()), "202": ("201", set()), "234": ("234", set())}),
    cinc2011: ("Challenge of 2011: 2 of 3", {"1005639": ("", {"acceptable"}),
               "1009404": ("", {"unacceptable"}), "1034914": ("", set())}),
    ludb: ("LUDB", {"1": ("1", {"Sinus rhythm"}), "2": ("2", {"Sinus rhythm"})}),
    incart: ("", {n: ("1", {"Coronary artery disease", "hypertension"}) for n in ("I01", "I02")}),
    chapman: (r"Chapman-Shaoxing-Ningbo \(2\)", {n: (n, CODES) for n in ("JS00001", "JS00002")}),
    cpsc_and_georgia: (r"CPSC2018 \(1\), Georgia \(1\)",
                       {n: ("", {"59118001"}) for n in ("A0001", "E00001")}),
    mimic: ("MIMIC-IV-ECG: .* 1 of 2", {
        "40689238": ("10000032", {"Sinus rhythm", "Prolonged QT, borderline"}),
        "44458630": ("10000032", set())}),
    code15: ("CODE-15%: .* 2 of 3", {"1169160": ("523632", {"RBBB", "AF"}),
                                     "271011": ("1710", set())}),
    samitrop: ("SaMi-Trop", {"1014": ("1014", set()), "1203": ("1203", set())}),
}  # fmt: skip


@pytest.mark.parametrize("write", DATA_SETS, ids=lambda write: write.__name__)
def test_patients_or_labels_are_not_those_of_the_publishers(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    (folder := tmp_path / "in").mkdir()
    write(folder)
    remark, expected = DATA_SETS[write]
    options = {"unit": "mV"} if write in (code15, samitrop) else {}
    assert re.search(remark, "\n".join(open_source(folder, **options).remarks))
    options |= {"missing_leads": "mask"} if write is mit_bih else {}
    store = ingest(folder, tmp_path / "out", workers=1, quiet=True, **options).store
    codes, bounds = np.array(store.labels.codes, dtype=object), store.labels.indptr.tolist()
    labels = [set(codes[store.labels.indices[b:e]]) for b, e in pairwise(bounds)]
    rows = zip(store.record_ids.tolist(), store.patient_ids.tolist(), labels, strict=True)
    assert {name: (patient, own) for name, patient, own in rows} == expected


def test_samples_of_mimic_or_code15_are_of_another_lead_or_of_padding(tmp_path: Path) -> None:
    for write, rate, seed, row in ((mimic, 500, 0, 0), (code15, 400, 1, 0)):
        (folder := tmp_path / write.__name__).mkdir()
        write(folder)
        options = {"unit": "mV"} if write is code15 else {}
        store = ingest(folder, tmp_path / f"{rate}", workers=1, quiet=True, **options).store
        read, written = store.recording(row), ecg(seed, rate, 7 if write is code15 else 2)
        assert read.sampling_rate == rate and read.leads == CANONICAL_LEADS
        valid = read.valid.all(axis=0)
        assert np.abs(read.signal[:, valid] - written.signal).max() <= 0.00051
        if write is mimic:
            assert store.metadata(row)["rr_interval"] == 659 and "p_axis" not in store.metadata(row)
    with pytest.raises(LatentcastError, match=r"1e-4 V and as mV.*--unit mV"):
        open_source(folder)
    assert reasons(tmp_path / "400").keys() == {"2873686"}
    assert store.metadata(0)["sex"] == "male" and store.metadata(0)["age"] == 38
    chosen = ingest(folder, tmp_path / "two", leads=["II", "V5"], unit="mV", quiet=True).store
    assert chosen.leads == ("II", "V5")


def test_rows_and_recordings_of_samitrop_are_shifted(tmp_path: Path) -> None:
    samitrop(tmp_path)
    with (tmp_path / "exams.csv").open("a") as file:
        file.write("1204,72,False,False,True,1.1,70.9\n")
    with pytest.raises(LatentcastError, match="has 3 rows, exams.hdf5 2 recordings"):
        open_source(tmp_path, unit="mV")
