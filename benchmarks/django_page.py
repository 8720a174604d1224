"""A peer: Django with an ORM query and a template for each request, and a pool of connections."""

import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path
from sqlalchemy import make_url

URL = make_url(os.environ["DATABASE_URL"])
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": URL.database,
            "USER": URL.username,
            "HOST": URL.query.get("host", URL.host),
            "PORT": URL.query.get("port", URL.port),
            "OPTIONS": {"pool": {"min_size": 5, "max_size": 5}},
        }
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",  # noqa: S106 (signs nothing)
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
django.setup()

PAGE = engines["django"].from_string(
    "<!doctype html><title>The world's biggest cities</title><table>"
    "{% for city in cities %}<tr><td>{{ forloop.counter }}</td>"
    "<th>{{ city.name }}</th><td>{{ city.population }}</td></tr>{% endfor %}</table>"
)


class City(models.Model):
    """A row of the table."""

    name = models.TextField()
    population = models.IntegerField()

    class Meta:
        """The table of the model."""

        app_label = "benchmark"
        db_table = "cities"
        managed = False


def show_board(request: HttpRequest) -> HttpResponse:
    """The page, rendered for this request."""
    return HttpResponse(PAGE.render({"cities": City.objects.order_by("-population", "id")[:20]}, request))


urlpatterns = [path("", show_board)]
app = get_wsgi_application()
