"""On which platforms and Pythons the lock can be installed from wheels alone.

    python tests/benchmarks/platforms.py

asks uv what it would install; nothing is installed. It needs an index of packages.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35", "aarch64-apple-darwin")
"""glibc 2.35 is that of Ubuntu 22.04 and JetPack 6; Raspberry Pi OS of 2023 has a newer one."""
ENVIRONMENT = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
"""ExecuTorch has no wheel for an older macOS."""
FROM_SOURCE = ("antlr4-python3-runtime",)
"""What its authors publish as source alone: pure Python."""


def fault(python: str, platform: str) -> str:
    """Why the lock cannot be installed there; empty where it can."""
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--dry-run"),
        *("--python-version", python, "--python-platform", platform, "--require-hashes"),
        *("--only-binary", ":all:", "--target", "/nonexistent"),
        *(argument for name in FROM_SOURCE for argument in ("--no-binary", name)),
        *("-r", str(ROOT / "requirements.lock")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())


def main() -> None:
    """Print one line for each platform and Python, and leave with 1 where one is missing."""
    missing = False
    for platform in PLATFORMS:
        for python in PYTHONS:
            found = fault(python, platform)
            missing |= bool(found)
            print(f"{platform:24} {python:5} {found or 'yes'}", flush=True)
    sys.exit(missing)


if __name__ == "__main__":
    main()
