"""Shared fixtures: the sample, and one small run of the whole stack on it."""

import contextlib
import fcntl
import gc
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
