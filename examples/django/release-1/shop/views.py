from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from shop import models


def name_the_release(get_response):
    def middleware(request):
        response = get_response(request)
        response.headers["X-Gen"] = settings.RELEASE.name
        return response

    return middleware


@csrf_exempt
def items(request):
    """GET: how many there are, and the newest; POST: one more."""
    if request.method == "POST":
        models.add("a thing")
    newest = models.Item.objects.order_by("-id").first()
    return HttpResponse(f"{models.Item.objects.count()} items, the newest: {newest and newest.text}\n")


def healthz(request):
    """What `hot_check` requests from each new worker: a release that does not fit its tables fails here."""
    models.Item.objects.first()
    return HttpResponse("ok\n")


urlpatterns = [path("", items), path("healthz", healthz)]
