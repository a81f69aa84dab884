"""Colours and type shared by every picture and by the page that carries them.

A figure is drawn in the light colours. The page replaces each of them by a CSS variable, so an
inlined SVG follows the reader's light or dark setting; that works because no two roles share a hex
value, and a figure uses no colour outside this table (clinical paper excepted: paper stays paper).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from latentcast.errors import LatentcastError
from latentcast.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: role -> (light, dark). Text and lines hold a contrast of at least 4.5:1 and 3:1 on either page.
PALETTE: Final[dict[str, tuple[str, str]]] = {
    "ink": ("#1c2128", "#e6e8eb"),
    "muted": ("#5d6670", "#9aa4af"),
    "rule": ("#d5dae0", "#353c45"),
    "model": ("#0b62a8", "#5aaeee"),
    "other": ("#b4500c", "#f09a58"),
    "baseline": ("#7a828c", "#8b949e"),
    "alarm": ("#c0152f", "#ff6b7d"),
    "faint": ("#c9ced5", "#444c56"),
    # Categories for the embedding map; hues kept apart for colour-blind readers (after Okabe & Ito
    # 2008), lightness varied so that they also differ in grey.
    "class-1": ("#0272b3", "#4aa8e0"),
    "class-2": ("#d45f01", "#ff8c3a"),
    "class-3": ("#028a66", "#2cc79c"),
    "class-4": ("#a8478a", "#e08cc6"),
    "class-5": ("#8a6d00", "#e3c23a"),
    "class-6": ("#3d3a9e", "#9d9af0"),
    "class-7": ("#7d2b2b", "#d98080"),
    "class-8": ("#3f7f8f", "#86cddd"),
}

LIGHT: Final[dict[str, str]] = {role: light for role, (light, _) in PALETTE.items()}
CLASS_COLOURS: Final[tuple[str, ...]] = tuple(
    colour for role, colour in LIGHT.items() if role.startswith("class-")
)

#: Size of running text in a figure, points.
TEXT_POINTS: Final = 9.0


_PICTURES: Final = (
    b"\x89PNG",
    b"<?xml",
    b"<svg",
    b"%PDF",
    b"%!PS",
    b"\xff\xd8",
    b"RIFF",
    b"II*",
    b"MM",
)
"""How the files begin that matplotlib writes, of any format."""


def save_figure(figure: Figure, file: Path, **options: Any) -> None:
    """Write a picture, in the format of its suffix; its folder is made where it is missing.

    Raises:
        LatentcastError: another suffix, a file that is there and is no picture, or it cannot be
            written.
    """
    try:
        if file.is_file() and file.stat().st_size and not _is_picture(file):
            raise LatentcastError(
                f"{file}: exists and is no picture; name another file, or remove that one"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            figure.savefig(draft, format=file.suffix[1:], **options)
    except ValueError:  # it lists a dozen formats
        raise LatentcastError(
            f"{file}: '{file.suffix}' is no format of a picture; name a .png, .svg or .pdf"
        ) from None
    except OSError as problem:
        raise LatentcastError(
            f"{file}: cannot be written ({problem}); name a .png, .svg or .pdf in another folder"
        ) from None


def _is_picture(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(8).startswith(_PICTURES)


def stylesheet() -> str:
    """The CSS of the page: both palettes, and a layout that also prints."""
    light = "".join(f"--{role}:{day};" for role, (day, _) in PALETTE.items())
    dark = "".join(f"--{role}:{night};" for role, (_, night) in PALETTE.items())
    return (
        f":root{{color-scheme:light dark;--page:#ffffff;--card:#f5f7f9;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark)"
        f"{{:root{{--page:#14171b;--card:#1d2127;{dark}}}}}\n{_LAYOUT}"
    )


_LAYOUT: Final = """\
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1090px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
h1{font-size:17px;font-weight:600;margin:0;color:var(--muted)}
h2{font-size:21px;line-height:1.3;margin:56px 0 10px;letter-spacing:-.01em}
h3{font-size:16px;margin:26px 0 6px}
p{max-width:74ch;margin:0 0 12px}
a{color:var(--model)}
.verdict{font-size:34px;line-height:1.18;font-weight:700;letter-spacing:-.02em;margin:6px 0 14px;
  max-width:34ch;text-wrap:balance}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:12px;
  margin:22px 0 18px;padding:0;max-width:none;list-style:none}
.cards li{margin:0;background:var(--card);border-radius:8px;padding:14px 16px;
  border-top:3px solid var(--rule)}
.cards li.tested{border-top-color:var(--model)}
.cards b{display:block;font-size:30px;line-height:1.2;font-variant-numeric:tabular-nums}
.cards span{display:block;color:var(--muted);font-size:14px}
.scroll{overflow-x:auto;background:
  linear-gradient(to right,var(--page) 40%,transparent) left/36px 100% no-repeat local,
  linear-gradient(to left,var(--page) 40%,transparent) right/36px 100% no-repeat local,
  linear-gradient(to right,var(--rule),transparent) left/12px 100% no-repeat scroll,
  linear-gradient(to left,var(--rule),transparent) right/12px 100% no-repeat scroll}
table{border-collapse:collapse;width:100%;margin:8px 0 18px;font-size:14.5px;
  font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--muted);padding:0 0 8px}
caption span{display:block;position:sticky;left:0;max-width:min(80ch,calc(100vw - 48px))}
th,td{text-align:left;padding:7px 14px 7px 0;border-bottom:1px solid var(--rule);vertical-align:top;
  font-weight:400}
thead th{color:var(--muted);font-size:13px;vertical-align:bottom}
tbody th{font-weight:600}
.number{text-align:right}
td.number{white-space:nowrap}
td:last-child,th:last-child{padding-right:0}
.bar{width:130px;height:14px;display:block;margin-top:4px}
.bar line{stroke:var(--muted);stroke-width:2}
.bar .track{stroke:var(--rule);stroke-width:1}
.bar circle{fill:var(--muted)}
.bar.strong line:not(.track){stroke:var(--model)}
.bar.strong circle{fill:var(--model)}
.bar rect{fill:var(--alarm)}
.timeline{width:220px}
th code{font-size:13.5px}
figure{margin:14px 0 8px}
figcaption{color:var(--muted);font-size:14.5px;max-width:80ch;margin-top:8px}
.canvas{min-width:720px}
.narrow .canvas{min-width:0;max-width:460px!important}
.row{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:0 24px}
.row figure{margin-right:0;min-width:0}
.row figure:not(.narrow){grid-column:1/-1}
.canvas svg{display:block;width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt}
.canvas svg text{font-family:inherit!important}
.paper .canvas{background:#fff;border:1px solid var(--rule);border-radius:4px}
.notice{border-left:4px solid var(--alarm);background:var(--card);padding:12px 16px;
  border-radius:0 8px 8px 0;margin:18px 0}
.notice p:last-child,.notice ul:last-child{margin-bottom:0}
dl{margin:0 0 14px;font-size:14.5px}
dl div{display:grid;grid-template-columns:minmax(150px,230px) 1fr;gap:16px;padding:5px 0;
  border-bottom:1px solid var(--rule)}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
ul{padding-left:20px;margin:0 0 12px;max-width:78ch}
li{margin-bottom:5px}
pre{background:var(--card);border-radius:8px;padding:16px;overflow:auto;font-size:13px;line-height:1.5}
summary{cursor:pointer;color:var(--model);margin:10px 0}
footer{color:var(--muted);font-size:14px;padding-top:36px;padding-bottom:48px}
.forest{display:block;width:100%;max-width:640px;height:auto;margin:6px 0 16px}
.forest text{font-family:inherit;font-size:13px;fill:var(--ink);font-variant-numeric:tabular-nums}
.forest .axis text{fill:var(--muted);font-size:11px}
.forest line{stroke:var(--muted);stroke-width:2}
.forest .rule{stroke:var(--rule);stroke-width:1}
.forest .floor{stroke:var(--other);stroke-width:1;stroke-dasharray:3 3}
.forest .pretrained line:not([class]),.forest .fine-tuned line:not([class]){stroke:var(--model)}
.forest circle{fill:var(--muted)}
.forest .pretrained circle,.forest .fine-tuned circle{fill:var(--model)}
.forest .seed{stroke:var(--ink);stroke-width:1}
@media (max-width:600px){
  .verdict{font-size:27px}
  dl div{grid-template-columns:1fr;gap:0}
  main,header,footer{padding-left:16px;padding-right:16px}
  .stacked thead{position:absolute;clip-path:inset(50%)}
  .stacked tr,.stacked th,.stacked td{display:block;text-align:left;border:0;padding:1px 0}
  .stacked tr{border-bottom:1px solid var(--rule);padding:8px 0}
  .stacked td{overflow-wrap:anywhere}
  .stacked td.number{white-space:normal}
  .stacked td:empty{display:none}
  .stacked td:not([data-name=""])::before{content:attr(data-name) ": ";color:var(--muted)}
}
@media print{
  @page{size:A4;margin:14mm}
  @page paper{size:A4 landscape;margin:10mm}
  section:has(.paper){page:paper}
  body{font-size:10pt}
  table,dl,figcaption{font-size:8.5pt}
  thead th{font-size:8pt}
  th,td{padding:4px 8px 4px 0}
  .bar{width:80px}
  .canvas{min-width:0}
  main,header,footer{max-width:none;padding:0}
  h2{break-after:avoid;margin-top:24px}
  figure,table,tr,li,.cards,.notice{break-inside:avoid}
  .cards li,.notice,pre,.paper .canvas{print-color-adjust:exact;-webkit-print-color-adjust:exact}
  .scroll{overflow:visible;background:none}
}
"""
