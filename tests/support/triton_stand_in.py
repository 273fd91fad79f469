"""A stand-in for the CUDA driver of Triton, on a machine without a GPU.

Kernels are really compiled, for compute capability 9.0, and nothing is computed.
"""

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver


class _Utils:
    """Gives each loaded kernel a number in place of its address on a GPU."""

    def __init__(self):
        self.loaded = []

    def load_binary(self, name, code, shared, device):
        self.loaded.append(name)
        registers, spills, threads = 32, 0, 1024
        return len(self.loaded), len(self.loaded), registers, spills, threads

    def get_device_properties(self, device):
        return {"max_shared_mem": 227 << 10, "multiprocessor_count": 132}


class StandInDriver(DriverBase):
    """Tells Triton of an H100, whose kernels end at once."""

    def __init__(self):
        self.utils = _Utils()
        self.calls = []
        """The function and the arguments of each call, tensors as addresses; see `notes`."""
        self.notes = True
        stand_in = self

        class Launcher:
            def __init__(self, source, metadata):
                pass

            def __call__(self, *call):
                if stand_in.notes:
                    stand_in.note(*call)

        self.launcher_cls = Launcher

    def note(self, x, y, z, stream, function, metadata, launch_metadata, enter, leave, *arguments):
        arguments = [getattr(each, "data_ptr", lambda each=each: each)() for each in arguments]
        self.calls.append(((x, y, z), stream, function, metadata, arguments))

    @classmethod
    def is_active(cls):
        return False

    def map_python_to_cpp_type(self, ty):
        return ty

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return "cpu"

    def get_benchmarker(self):
        raise NotImplementedError

    def get_device_interface(self):
        raise NotImplementedError


def use():
    """Make it Triton's driver in this process; return it."""
    stand_in = StandInDriver()
    driver.set_active(stand_in)
    return stand_in
