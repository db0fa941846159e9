"""`python -m demos` runs both headline experiments."""

from demos import laboratory as lab
from demos import learning_rate, minibatch_noise

if __name__ == "__main__":
    raise SystemExit(lab.main([minibatch_noise.DEMO, learning_rate.DEMO]))
