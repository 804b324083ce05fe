"""The families a config may name; the one place where they meet."""

import coop
import vpt

FAMILIES = {"vpt": vpt, "coop": coop}
