"""The JSON files of a diffusers folder (config.json, scheduler_config.json, model_index.json), read and written.

A missing field takes the default of the official class. An unsupported field that changes what a network means raises
`ConfigError`; one that recommends a sampler or a schedule becomes a note of the `ScheduleConfig`. All other fields (of
training, of newer versions) are ignored.
"""

from .clip import read_text as read_text
from .clip import read_vision as read_vision
from .clip import write_text as write_text
from .clip import write_vision as write_vision
from .index import write_index as write_index
from .scheduler import read_scheduler as read_scheduler
from .scheduler import write_scheduler as write_scheduler
from .unet import read_unet as read_unet
from .unet import write_unet as write_unet
from .vae import TINY_CLASS as TINY_CLASS
from .vae import VAE_CLASS as VAE_CLASS
from .vae import read_tiny_vae as read_tiny_vae
from .vae import read_vae as read_vae
from .vae import write_vae as write_vae
