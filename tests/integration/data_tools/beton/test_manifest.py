"""What importing the manifest loads, in a fresh interpreter."""

import subprocess
import sys


def test_manifest_needs_only_the_standard_library() -> None:
    heavy = "{'numpy', 'torch', 'ffcv', 'cv2', 'PIL', 'numba'}"
    code = f"import sys, data_tools.beton.manifest; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
