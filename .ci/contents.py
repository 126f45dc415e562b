"""Check what the two distributions in a folder hold: `contents.py FOLDER`."""

import sys
import tarfile
import zipfile
from pathlib import Path

folder = Path(sys.argv[1])
(wheel_path,) = folder.glob("*.whl")
(sdist_path,) = folder.glob("*.tar.gz")
with zipfile.ZipFile(wheel_path) as wheel:
    in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    licensed = any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
with tarfile.open(sdist_path) as sdist:
    # The first folder of a source distribution is its name and version.
    in_sdist = {name.partition("/")[2] for name in sdist.getnames()}

source = Path("src")
patterns = ("*.py", "py.typed", "explorer/*.html", "explorer/*.css", "explorer/*.js")
files = {
    str(path.relative_to(source)) for pattern in patterns for path in (source / "saccade").rglob(pattern)
}
faults = [
    *(f"the wheel lacks {name}" for name in sorted(files - in_wheel)),
    *(f"the wheel holds {name}, which is neither a module nor an asset" for name in sorted(in_wheel - files)),
    *(f"the sdist lacks src/{name}" for name in sorted(files) if f"src/{name}" not in in_sdist),
    *(
        f"the sdist lacks {name}"
        for name in ("LICENSE", "README.md", "pyproject.toml")
        if name not in in_sdist
    ),
    *([] if licensed else ["the wheel lacks LICENSE"]),
]
sys.exit("\n".join(faults) or 0)
