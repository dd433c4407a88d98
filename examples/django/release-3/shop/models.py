"""Contract: there is only `title`. Migrations take `name` away when release 2 has drained."""

from django.db import models


class Item(models.Model):
    title = models.CharField(max_length=100, db_default="")

    @property
    def text(self):
        return self.title


def add(text):
    return Item.objects.create(title=text)
