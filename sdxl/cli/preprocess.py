"""`preprocess`: a control image made of another one."""

from __future__ import annotations

import argparse
import io

from ..errors import ArgumentError
from .console import UNPRINTED, show
from .options import read_file
from .parser import Parser, command

NAMES = """\
preprocessors, with their numbers and defaults:
  canny[:LOW[:HIGH[:SIGMA]]]  white edges on black (100:200:0, without blur)
  invert                      a drawing in black on white as white on black
  blur[:SIGMA]                a Gaussian blur (9 pixels)
  tile[:FACTOR]               without details: reduced and enlarged again (4 times)
  grey                        the luminance
  scribble[:THRESHOLD]        white strokes on black, where it is darker than around (32)
  repaint                     black where --mask is white

depth, openpose, normal, segment, hed, mlsd and lineart need networks of their own: other tools make them.

example:
  sdxl preprocess canny:50:150 photo.jpg edges.png"""


def preprocess_parser() -> Parser:
    """The command and its flags."""
    about = "Make a control image: what a ControlNet takes, of the same size."
    parser = command("preprocess", about, NAMES, "NAME INPUT OUTPUT [flags]")
    parser.add_argument("name", metavar="NAME", help="the preprocessor, perhaps with numbers, such as canny:50:150")
    parser.add_argument("input", type=read_file, metavar="INPUT", help="the image")
    parser.add_argument("output", type=read_file, metavar="OUTPUT", help="the file to write: .png, .jpg or .webp")
    parser.add_argument("--mask", type=read_file, metavar="FILE", help="for repaint: what is white is repainted")
    parser.set_defaults(run=_preprocess)
    return parser


def _preprocess(options: argparse.Namespace) -> int:
    from ..images.output import check_writable, image_format, is_same_file, resolve_output, write_file
    from ..images.preprocess import preprocess_image

    check_writable(options.output)
    if is_same_file(options.output, options.input):
        raise ArgumentError(f"{options.output} is the source and would be overwritten; choose another OUTPUT")
    made, data = preprocess_image(options.input, options.name, options.mask), io.BytesIO()
    made.save(data, image_format(options.output), lossless=True, quality=95, subsampling=0)
    write_file(data.getvalue(), resolve_output(options.output))
    return 0 if show(str(options.output)) else UNPRINTED
