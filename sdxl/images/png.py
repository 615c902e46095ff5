"""The names that this module had when PNG was the only format."""

from __future__ import annotations

from ..weights.part import PART as PART
from ..weights.part import part_prefix as part_prefix
from .a1111 import parameters_text as parameters_text
from .output import check_writable as check_writable
from .output import remedy as remedy
from .output import write_file
from .record import encode_png as encode_png
from .record import read_parameters as read_parameters
from .record import save_png as save_png

write_png = write_file
