"""Root is asked for no permission: what a process without that privilege meets, tested also where tests run as root."""

import ctypes
import os
import subprocess
import sys

PR_CAPBSET_DROP = 24  # linux/prctl.h: what a program started from here on can't have
CAPABILITIES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER of linux/capability.h


def give_up_privileges():
    """Permissions hold for the program that is started next (Popen's preexec_fn), whoever starts it."""
    if os.geteuid() == 0 and sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        for capability in CAPABILITIES:
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def is_kept_out(folder):
    """Whether a program so started really can't write into a folder whose permissions say so."""
    command = [sys.executable, "-c", "import sys; open(sys.argv[1] + '/probe', 'x')", str(folder)]
    done = subprocess.run(command, preexec_fn=give_up_privileges, capture_output=True, text=True)
    return done.returncode != 0 and "PermissionError" in done.stderr
