"""Messages that look like advice and are not followed by a test, each with the reason."""

from __future__ import annotations

from messages import Message

_SET = "what --auto has set, with the reason"
_TITLE = "a title"
_TRAINING = "about a training that goes badly, of which no example takes seconds"

UNFOLLOWED = {
    ("serving/app.py", "text/plain; version"): "a media type",
    ("config/advice.py", "train."): _SET,
    ("config/advice.py", "optimizer."): _SET,
    ("config/advice.py", "ema."): _SET,
    ("verification/report/markdown.py", "# latentcast verify"): _TITLE,
    ("verification/report/badge.py", "latentcast verify"): _TITLE,
    ("verification/report/page.py", "latentcast verify: {}"): _TITLE,
    ("monitors/online.py", "train.evaluate_every is null"): "why nothing is evaluated",
    ("monitors/collapse.py", "lower optimizer.lr, or check"): _TRAINING,
    ("monitors/collapse.py", "what it merges is alive"): _TRAINING,
    ("monitors/collapse.py", "its targets are alive"): _TRAINING,
    ("monitors/collapse.py", "look at the data"): _TRAINING,
    ("monitors/collapse.py", "train longer, or use a longer"): _TRAINING,
    ("monitors/collapse.py", "look at the gradient norm"): _TRAINING,
    ("monitors/journal.py", "early warning: "): _TRAINING,
    ("engine/verdict.py", "no patch of the batch"): _TRAINING,
    ("engine/verdict.py", "the gradient norm is"): _TRAINING,
    ("evaluation/heads/logistic.py", "logistic regression: a label"): "no probe fits such a label",
    ("evaluation/heads/attentive.py", "attentive head: its"): _TRAINING,
    ("engine/ranks.py", "rank {} of {}"): "takes two processes; tests/faults kills one",
    ("signals/readers/wfdb_header.py", "no gain(baseline)/unit"): "the form of a field of a header",
    ("data/workers.py", "a script that trains"): "takes a script; tests/unit/test_loader.py has it",
}


def reason(message: Message) -> str | None:
    """Why a message is not followed."""
    for (file, start), why in UNFOLLOWED.items():
        if message.file == file and message.text.startswith(start):
            return why
    return None
