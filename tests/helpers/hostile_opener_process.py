"""Opens hostile files in a process of its own: [kind, path] a line in, a JSON line a file out."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from exporters.engines.ort import Ort
from exporters.graph.open import open_onnx
from pipeline.network.weights import read_weights
from profiles.errors import SlimgateError

MORE_MIB = 2048
"""Address space that opening may take, beyond what the libraries take themselves."""
LIMIT_S = 10


def opened(kind: str, path: Path) -> bytes:
    """All bytes that came with the file."""
    if kind == "onnx":
        raw: bytes = open_onnx(path).SerializeToString()
        return raw
    if kind == "engine":
        Ort().open(path)
        return b""
    tensors = read_weights(path).values()
    return b"".join(t.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for t in tensors)


def main() -> None:
    secret = bytes.fromhex(sys.argv[1])
    # onnx writes warnings to stdout.
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (MORE_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        kind, path = json.loads(line)
        signal.alarm(LIMIT_S)  # it ends native code too
        try:
            outcome = "secret" if secret in opened(kind, Path(path)) else "opened"
        except SlimgateError as error:
            outcome = type(error).__name__
        except Exception as error:
            outcome = f"{type(error).__module__}.{type(error).__name__}: {error}"[:300]
        signal.alarm(0)
        print(json.dumps(outcome), file=results)


if __name__ == "__main__":
    main()
