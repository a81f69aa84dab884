"""JEPA: its configuration, its loss, and the masks that say what is predicted from what."""

from latentcast.objectives.jepa.config import JepaConfig
from latentcast.objectives.jepa.loss import Jepa

__all__ = ["Jepa", "JepaConfig"]
