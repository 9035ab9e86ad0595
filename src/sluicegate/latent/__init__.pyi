from .model import Autoencoder as Autoencoder
from .model import load as load
from .settings import Settings as Settings
from .training import train as train
