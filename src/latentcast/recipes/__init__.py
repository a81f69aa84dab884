"""Named configurations as plain functions; the published ones to the digit."""

from collections.abc import Callable
from difflib import get_close_matches

from latentcast.config import Config
from latentcast.errors import LatentcastError
from latentcast.recipes import ecg, images
from latentcast.signatures import checked

RECIPES: dict[str, Callable[[], Config]] = {
    "nepa-ecg-tiny": ecg.nepa_ecg_tiny,
    "nepa-ecg-small": ecg.nepa_ecg_small,
    "nepa-ecg-base": ecg.nepa_ecg_base,
    "cpc-ecg-tiny": ecg.cpc_ecg_tiny,
    "ijepa-ecg-tiny": ecg.ijepa_ecg_tiny,
    "ijepa-ecg-small": ecg.ijepa_ecg_small,
    "ijepa-ecg-leads-tiny": ecg.ijepa_ecg_leads_tiny,
    "hjepa-ecg-leads-tiny": ecg.hjepa_ecg_leads_tiny,
    "hjepa-ecg-tiny": ecg.hjepa_ecg_tiny,
    "hjepa-ecg-small": ecg.hjepa_ecg_small,
    "conv-ecg-tiny": ecg.conv_ecg_tiny,
    "conv-ecg-small": ecg.conv_ecg_small,
    "conv-image-digits": images.conv_image_digits,
    "conv-image-tiny": images.conv_image_tiny,
    "simclr-image-tiny": images.simclr_image_tiny,
    "nepa-image-tiny": images.nepa_image_tiny,
    "nepa-image-base": images.nepa_image_base,
    "nepa-image-large": images.nepa_image_large,
    "ijepa-image-digits": images.ijepa_image_digits,
    "ijepa-image-tiny": images.ijepa_image_tiny,
    "ijepa-image-base": images.ijepa_image_base,
    "ijepa-image-huge": images.ijepa_image_huge,
    "hjepa-image-digits": images.hjepa_image_digits,
    "hjepa-image-tiny": images.hjepa_image_tiny,
    "hjepa-image-base": images.hjepa_image_base,
}


@checked
def recipe(name: str) -> Config:
    """The configuration of a recipe.

    Raises:
        LatentcastError: no recipe of that name; those near to it are offered.
    """
    if name not in RECIPES:
        words = set(name.split("-"))
        fuller = [f"'{other}'" for other in RECIPES if words <= set(other.split("-"))]
        close = [f"'{other}'" for other in get_close_matches(name, RECIPES, n=1, cutoff=0.5)]
        near = " or ".join(fuller or close)
        fix = f"did you mean {near}?" if near else f"they are {', '.join(RECIPES)}"
        raise LatentcastError(f"{name}: is no recipe; {fix}")
    return RECIPES[name]()
