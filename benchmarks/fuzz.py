"""Feed `images.load` what Atheris makes of small images, for so many seconds: `faults.py` runs this in a process.

    python benchmarks/fuzz.py SECONDS FOLDER

Ends with 0 if nothing but images and `InputError` came of it; FOLDER holds what did it otherwise.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import atheris

# before anything else imports Pillow, so that the fuzzer sees its branches
with atheris.instrument_imports(include=["PIL"], enable_loader_override=False):
    from PIL import Image

    Image.init()

from faults import check_file, files, outcome


def main() -> None:
    seconds, folder = int(sys.argv[1]), Path(sys.argv[2])
    corpus = folder / "corpus"
    corpus.mkdir()
    for n, data in enumerate(files()):
        (corpus / str(n)).write_bytes(data)
    warnings.simplefilter("ignore")
    atheris.Setup(
        [
            *(sys.argv[0], f"-max_total_time={seconds}", "-max_len=8192", "-timeout=60", "-rss_limit_mb=8192"),
            *("-print_final_stats=1", f"-artifact_prefix={folder}/", str(corpus)),
        ],
        lambda data: outcome(lambda: check_file(data, folder / "image")),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
