"""Where Debian's Chromium is; `python -m tests.e2e.chromium` sees to it that there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find() -> str | None:
    """Path of the browser: `RTBF_CHROMIUM`, or the first known name on PATH."""
    if named := os.environ.get("RTBF_CHROMIUM"):
        return named if os.path.exists(named) else None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def main() -> int:
    """Exit 0 if there is a browser, installing it where that is plainly possible; else 2."""
    if find():
        return 0
    if os.geteuid() == 0 and shutil.which("apt-get") and "RTBF_CHROMIUM" not in os.environ:
        sys.stderr.write("Installing Debian's Chromium (apt-get install chromium) ...\n")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        quiet = ["--yes", "-qq", "--no-install-recommends"]
        for command in (["update", "-qq"], ["install", *quiet, "chromium"]):
            subprocess.run(["apt-get", *command], env=environment, check=False, stdout=sys.stderr)
        if find():
            return 0
    sys.stderr.write(
        "The browser tests need Chromium, and none was found. Install it (on Debian:"
        " sudo apt-get install chromium) or set RTBF_CHROMIUM to its path.\n"
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
