"""What the command line says of itself."""

from __future__ import annotations

from terminal import Terminal, fixes


@fixes("cli/__init__.py", "Self-supervised pretraining")
def _(t: Terminal) -> None:
    assert t.works(t.prints("--help").typed("--version")).startswith("latentcast ")


@fixes("cli/arguments.py", "latentcast {}: is no verb")
def _(t: Terminal) -> None:
    t.works(t.refused("recipees").typed("mean '(.+)'"))


@fixes("cli/arguments.py", "{}: is no flag")
def _(t: Terminal) -> None:
    flag = t.refused(f"runs {t.at.run} --jsn").typed("mean '(--.+)'")
    t.works(f"runs {t.at.run} {flag}")


@fixes("cli/arguments.py", "{}: is there twice")
def _(t: Terminal) -> None:
    command = f"masks ijepa-image-digits --out {t.new('a.png')} "
    assert t.refused(f"{command} --out {t.new('b.png')}").typed("leave one out")
    t.works(command)


@fixes("cli/verification.py", "--momentum {}: is no momentum")
def _(t: Terminal) -> None:
    script = t.new("train.py")
    script.write_text(
        "import torch\nw = torch.nn.Linear(2, 2)\no = torch.optim.SGD(w.parameters(), 0.1)\n"
        "w(torch.randn(3, 2)).square().mean().backward()\no.step()\n"
    )
    flag = t.refused(f"watch --momentum ema {script}").typed("give (--momentum [\\d.]+),")
    t.works(f"watch {flag} {script}")
