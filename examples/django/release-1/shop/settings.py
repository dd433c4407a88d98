import os
from pathlib import Path

#: The folder of this release.
RELEASE = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("SECRET_KEY", "of an example, on 127.0.0.1")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["shop"]
MIDDLEWARE = ["shop.views.name_the_release"]
ROOT_URLCONF = "shop.views"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# What outlives a release is in none of their folders.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": RELEASE.parent.parent / "db.sqlite3",
        # Two generations write at the same time, and a migration too: wait, do not fail.
        "OPTIONS": {"timeout": 20},
    }
}
