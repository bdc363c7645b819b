"""What exiftool finds in files: it knows more kinds of metadata than any other program."""

import json
import re
import subprocess
from pathlib import Path

POSITION = re.compile(r"gps|latitude|longt?itude|altitude|(?<!ima)geo|maker_?note", re.IGNORECASE)

TO_SHOW = re.compile(
    r"(?:File|System|ExifTool|Composite):.*"
    r"|ICC[-_].*|PNG:(?:ICC_Profile|ProfileName)"
    r"|IFD0:(?:Orientation|[XY]Resolution|ResolutionUnit)|ExifIFD:ColorSpace"
    r"|ExifIFD:ExifImage(?:Width|Height)|InteropIFD:InteropIndex"
    r"|JFIF:(?:JFIFVersion|[XY]Resolution|ResolutionUnit)|Adobe:.*"
    r"|PNG:(?:Image(?:Width|Height)|BitDepth|ColorType|Compression|Filter|Interlace|Gamma"
    r"|SRGBRendering|SignificantBits|Animation(?:Frames|Plays)|Palette|Transparency"
    r"|BackgroundColor|WhitePoint[XY]|(?:Red|Green|Blue)[XY])|PNG-pHYs:.*|PNG-cICP:.*"
    r"|GIF:(?!Comment).*|RIFF:.*"
)
"""Names of the tags that a viewer needs to show a picture, all tags of an ICC profile included."""


def tags(folder: Path) -> dict[str, list[str]]:
    """The names of the tags that exiftool finds in each file of a folder, duplicates included."""
    command = ["exiftool", "-json", "-a", "-u", "-G1", "-ee", "-fast0", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    return {Path(each.pop("SourceFile")).name: list(each) for each in found}


def positions(folder: Path) -> dict[str, list[str]]:
    """The files of a folder in which exiftool finds positions or maker notes, with their names."""
    found = {
        name: [tag for tag in names if POSITION.search(tag)] for name, names in tags(folder).items()
    }
    return {name: names for name, names in found.items() if names}


def beyond_need(folder: Path) -> dict[str, list[str]]:
    """The files of a folder that hold more than a viewer needs, with the names of those tags."""
    found = {
        name: [tag for tag in names if not TO_SHOW.fullmatch(tag)]
        for name, names in tags(folder).items()
    }
    return {name: names for name, names in found.items() if names}
