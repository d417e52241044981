"""Kernels that are forked from a process which has torch, timm, plotly and pandas imported.

A page's own cells take seconds; importing these packages takes as long again, for each of 150 pages. A forked kernel
finds them in `sys.modules`, and is a plain `ipykernel` otherwise, with its own folder, environment and namespace.
`cxr_workbench` itself is imported by every page anew.

Where a process cannot be forked (Windows), or with CXR_COLD_KERNELS=1, every kernel is started as JupyterLab does it.
"""
import json, os, shutil, signal, subprocess, sys, tempfile
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import start_new_kernel

HEAVY = ['numpy', 'pandas', 'torch', 'torchvision', 'timm', 'plotly.graph_objects', 'ipywidgets', 'PIL.Image',
         'scipy.stats', 'lightning', 'safetensors', 'ipykernel.kernelapp']
OPTIONS = ['--HistoryManager.enabled=False', '--IPKernelApp.log_level=40']
READY = 120   # seconds within which a kernel has to answer
CAN_FORK = hasattr(os, 'fork') and not os.environ.get('CXR_COLD_KERNELS')


class ColdKernel:
    "A kernel of a process of its own."
    def __init__(self, folder, env):
        def start():
            return start_new_kernel(
                startup_timeout=READY, kernel_name='python3', cwd=str(folder), env=env, extra_arguments=OPTIONS)
        try: self.manager, self.client = start()
        except RuntimeError: self.manager, self.client = start()   # two workers may get the same free port

    def is_alive(self): return self.manager.is_alive()

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


class WarmKernel:
    "A kernel that `server` forked; `pid` is its process."
    def __init__(self, server, folder, env):
        self.home = tempfile.mkdtemp(prefix='kernel-')   # of its sockets: files, since ports may be taken by others
        file, _ = write_connection_file(f'{self.home}/kernel.json', transport='ipc', ip=f'{self.home}/socket')
        self.pid = server.fork(file=file, folder=str(folder), env=env)
        self.client = BlockingKernelClient(connection_file=file)
        self.client.load_connection_file()
        self.client.start_channels()
        try: self.client.wait_for_ready(timeout=READY)
        except RuntimeError:
            self.close()
            raise

    def is_alive(self):
        "Whether its process is there; the server waits for its children, so an ended one is gone."
        try: os.kill(self.pid, 0)
        except ProcessLookupError: return False
        return True

    def close(self):
        self.client.stop_channels()
        if self.is_alive(): os.kill(self.pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)


class Server:
    "The process that imports once, and is asked for a kernel by a line of JSON."
    def __init__(self, env):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def fork(self, **request):
        "The process number of a new kernel. RuntimeError where the server has ended."
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return int(self.process.stdout.readline())
        except (ValueError, BrokenPipeError) as error:
            message = 'the process that forks kernels has ended; CXR_COLD_KERNELS=1 does without it'
            raise RuntimeError(message) from error

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=READY)


def become_kernel(file, folder, env):
    "Turn this process into a kernel; it ends with it."
    import numpy as np
    from ipykernel.kernelapp import IPKernelApp
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    del sys.path[0]   # the folder of this file
    np.random.seed()   # a fork keeps the state of its parent
    for stream in (0, 1): os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    IPKernelApp.launch_instance(argv=['-f', file, *OPTIONS])


def serve():
    "Import, then fork a kernel for each line that comes in, and answer with its process number."
    for name in HEAVY: __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)   # ended kernels are not kept
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0: os._exit(become_kernel(**json.loads(line)) or 0)
        print(pid, flush=True)


if __name__ == '__main__': serve()
