"""All settings, from the environment; every variable is listed in docs/operations.md.

Without any variable set this is the embedded installation: SQLite, keys and artefacts under var/,
plain HTTP on this machine. `RTBF_PRODUCTION=1` switches on everything a public host needs and
refuses to start without its own secrets.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from csp.constants import NONE, SELF
from django.conf.locale import LANG_INFO
from django.core.exceptions import ImproperlyConfigured

from requests_app.durable_files import make_once
from requests_app.verifier import notes
from requests_app.verifier.errors import Invalid

BASE_DIR = Path(__file__).resolve().parent.parent


def env(name: str, default: str) -> str:
    return os.environ.get(name, default)


def env_bool(name: str, *, default: bool) -> bool:
    return os.environ.get(name, str(default)).strip().lower() in {"1", "true", "yes", "on"}


def env_map(name: str) -> dict[str, str]:
    """`key=value,key=value` from the environment."""
    pairs = [each.partition("=") for each in os.environ.get(name, "").split(",") if each.strip()]
    if not all(key.strip() and value.strip() for key, _, value in pairs):
        raise ImproperlyConfigured(f"Write {name} as key=value,key=value.")
    return {key.strip(): value.strip() for key, _, value in pairs}


def env_witnesses(name: str) -> dict[str, str]:
    """`url=vkey,url=vkey`: https, or this machine; keys of c2sp.org/tlog-cosignature."""
    witnesses = env_map(name)
    for url, vkey in witnesses.items():
        parts = urlsplit(url)
        local = parts.hostname in {"127.0.0.1", "::1", "localhost"}
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ImproperlyConfigured(f"{name}: {url} is not https.")
        try:
            notes.parse_vkey(vkey, kind=notes.COSIGNATURE)
        except Invalid as problem:
            raise ImproperlyConfigured(f"{name}: {problem}") from None
    return witnesses


def env_secret(name: str, *, file_name: str) -> str:
    """Secret from the environment; the embedded installation keeps one in a 0600 file."""
    if value := os.environ.get(name):
        return value
    if RTBF_PRODUCTION:
        raise ImproperlyConfigured(f"Set {name}: a production installation brings its own secrets.")
    path = RTBF_KEY_DIR / file_name
    if not path.exists():
        make_once(path, secrets.token_urlsafe(48).encode())
    return path.read_text()


def env_own(name: str, example: str) -> str:
    """What a production installation must say itself; the embedded one shows an example."""
    value = os.environ.get(name, "" if RTBF_PRODUCTION else example)
    if RTBF_PRODUCTION and not value.strip():
        raise ImproperlyConfigured(f"Set {name}: no letter goes out in the name of an example.")
    return value


def company_log_in(issuer: str, client_id: str | None, secret: str | None) -> dict[str, Any]:
    """allauth's setting for one OpenID Connect issuer, `company` in its addresses."""
    if not (client_id and secret):
        raise ImproperlyConfigured("Set RTBF_OIDC_CLIENT_ID and RTBF_OIDC_SECRET too.")
    app = {
        "provider_id": "company",
        "name": RTBF_OIDC_NAME,
        "client_id": client_id,
        "secret": secret,
        "settings": {"server_url": issuer, "oauth_pkce_enabled": True},
    }
    return {"openid_connect": {"APPS": [app], "OAUTH_PKCE_ENABLED": True}}


# --- Where things lie ---------------------------------------------------------------------------
RTBF_PRODUCTION = env_bool("RTBF_PRODUCTION", default=False)
RTBF_VAR_DIR = Path(env("RTBF_VAR_DIR", str(BASE_DIR / "var")))
RTBF_KEY_DIR = Path(env("RTBF_KEY_DIR", str(RTBF_VAR_DIR / "keys")))
RTBF_SIGNER_DIR = Path(env("RTBF_SIGNER_DIR", str(RTBF_VAR_DIR / "signer")))
RTBF_CHECKPOINT_FILE = Path(env("RTBF_CHECKPOINT_FILE", str(RTBF_VAR_DIR / "checkpoint")))
RTBF_ADAPTER_DIR = Path(env("RTBF_ADAPTER_DIR", str(RTBF_VAR_DIR / "adapters")))
RTBF_RELEASE_DIR = Path(env("RTBF_RELEASE_DIR", str(RTBF_VAR_DIR / "releases")))

# --- The controller, Art. 4(7) GDPR -------------------------------------------------------------
RTBF_CONTROLLER_NAME = env_own("RTBF_CONTROLLER_NAME", "Example Controller Ltd")
RTBF_CONTROLLER_EMAIL = env_own("RTBF_CONTROLLER_EMAIL", "privacy@controller.example")
RTBF_CONTROLLER_PHONE = env("RTBF_CONTROLLER_PHONE", "+32 2 555 01 00")
RTBF_CONTROLLER_ADDRESS = env("RTBF_CONTROLLER_ADDRESS", "1 Example Street, 1000 Brussels, Belgium")
RTBF_AUTHORITY_NAME = env_own("RTBF_AUTHORITY_NAME", "Data Protection Authority (Belgium)")
RTBF_AUTHORITY_URL = env("RTBF_AUTHORITY_URL", "https://www.dataprotectionauthority.be")
RTBF_DPO_CONTACT = env("RTBF_DPO_CONTACT", RTBF_CONTROLLER_EMAIL)
RTBF_COURT_NAME = env("RTBF_COURT_NAME", "")  # empty: the courts of Art. 79(2), in words
RTBF_BACKUP_DAYS = int(env_own("RTBF_BACKUP_DAYS", "30"))  # when back-ups of erased data are gone
# Does a model that learned somebody's data hold personal data? The controller's position: each
# decision records it, and none follows from it by itself (EDPB Opinion 28/2024: case by case).
RTBF_MODELS_ARE_PERSONAL_DATA = env("RTBF_MODELS_ARE_PERSONAL_DATA", "yes")
if RTBF_MODELS_ARE_PERSONAL_DATA not in ("yes", "case_by_case", "no"):
    raise ImproperlyConfigured("RTBF_MODELS_ARE_PERSONAL_DATA is yes, case_by_case or no.")
RTBF_JURISDICTION = env("RTBF_JURISDICTION", "EU")  # whose law counts the deadlines
RTBF_HOLIDAY_COUNTRY = env("RTBF_HOLIDAY_COUNTRY", "BE")
RTBF_ESCALATION_MAIL = env("RTBF_ESCALATION_MAIL", "")  # empty: each case officer
RTBF_MODELS = env("RTBF_MODELS", "demo").split(",")  # base models in service, by name
# Those of them that this machine's worker takes runs of; none named: all.
RTBF_WORKER_NICE = int(env("RTBF_WORKER_NICE", "19"))  # of the worker that trains; 0: as all
RTBF_WORKER_MODELS = [name for name in env("RTBF_WORKER_MODELS", "").split(",") if name]
RTBF_PHONE_PREFIX = env("RTBF_PHONE_PREFIX", "32")  # of phone numbers given without a country
RTBF_LOG_ORIGIN = env("RTBF_LOG_ORIGIN", "rtbf.example/log/embedded")
RTBF_PUBLIC_URL = env("RTBF_PUBLIC_URL", "http://127.0.0.1:8000")
RTBF_ENVIRONMENT = env("RTBF_ENVIRONMENT", "" if RTBF_PRODUCTION else "embedded")  # a tag
RTBF_DEMO_DATA = env_bool("RTBF_DEMO_DATA", default=not RTBF_PRODUCTION)  # shows a banner
RTBF_REQUIRE_MFA = env_bool("RTBF_REQUIRE_MFA", default=RTBF_PRODUCTION)
RTBF_SESSION_HOURS = int(env("RTBF_SESSION_HOURS", "12"))  # staff log in again after them
RTBF_SESSION_IDLE_MINUTES = int(env("RTBF_SESSION_IDLE_MINUTES", "60"))

RTBF_CODE_MAILS_PER_DAY = int(env("RTBF_CODE_MAILS_PER_DAY", "5"))  # to one address

# --- Retention: how long what is kept (docs/operations.md) ----------------------------------------
RTBF_KEEP_UNCONFIRMED_DAYS = int(env("RTBF_KEEP_UNCONFIRMED_DAYS", "7"))
RTBF_KEEP_CLOSED_DAYS = int(env("RTBF_KEEP_CLOSED_DAYS", "90"))  # the time for a complaint

# --- Queue truth --------------------------------------------------------------------------------
RTBF_LEASE_SECONDS = int(env("RTBF_LEASE_SECONDS", "60"))
RTBF_SWEEP_SECONDS = int(env("RTBF_SWEEP_SECONDS", "10"))
RTBF_MAX_LEASES = int(env("RTBF_MAX_LEASES", "3"))
RTBF_LONGEST_TASK_HOURS = float(env("RTBF_LONGEST_TASK_HOURS", "24"))  # the worker then ends
RTBF_SEND_TRIES = int(env("RTBF_SEND_TRIES", "20"))  # of one letter, notice or callback
RTBF_RECHECK_DAYS = int(env("RTBF_RECHECK_DAYS", "30"))  # cases in force are measured again
RTBF_RECHECK_CAP = int(env("RTBF_RECHECK_CAP", "100"))  # all of them up to this many, else a sample
RTBF_VERIFICATION_PROFILE = env("RTBF_VERIFICATION_PROFILE", "fast")
RTBF_CONTROLS = env_map("RTBF_CONTROLS")
RTBF_GATEWAY_URL = env("RTBF_GATEWAY_URL", "http://127.0.0.1:8010").rstrip("/")
RTBF_GATEWAY_ROWS = int(env("RTBF_GATEWAY_ROWS", "8"))  # answers in the making at once
RTBF_GATEWAY_ADAPTER_MB = int(env("RTBF_GATEWAY_ADAPTER_MB", "512"))  # kept in memory
RTBF_GATEWAY_KEPT_MB = int(env("RTBF_GATEWAY_KEPT_MB", "64"))  # of a key's last rows; 0: nothing
RTBF_GATEWAY_PER_MINUTE = int(env("RTBF_GATEWAY_PER_MINUTE", "600"))  # calls of one key
RTBF_MODEL_DTYPE = env("RTBF_MODEL_DTYPE", "float32")
RTBF_MODEL_DEVICE_MAP = env("RTBF_MODEL_DEVICE_MAP", "cpu")

# --- Who else vouches for the log ---------------------------------------------------------------
RTBF_WITNESSES = env_witnesses("RTBF_WITNESSES")
RTBF_TSA_URL = env("RTBF_TSA_URL", "")
RTBF_TSA_CERTIFICATE = env("RTBF_TSA_CERTIFICATE", "")
RTBF_CHECKPOINT_MAIL = env("RTBF_CHECKPOINT_MAIL", "")
RTBF_CHECKPOINT_PUBLISH_HOURS = float(env("RTBF_CHECKPOINT_PUBLISH_HOURS", "24"))

# --- Other parties' systems (docs/operations.md) --------------------------------------------------
RTBF_OUTGOING_CA = env("RTBF_OUTGOING_CA", "")  # PEM file, trusted beside the public authorities
RTBF_OPENDSR_KEY = env("RTBF_OPENDSR_KEY", "")  # PEM files; without both OpenDSR is not offered
RTBF_OPENDSR_CERTIFICATE = env("RTBF_OPENDSR_CERTIFICATE", "")
RTBF_DRP_BUSINESS_ID = env("RTBF_DRP_BUSINESS_ID", "")  # our id in a Data Rights Protocol directory

# --- Django -------------------------------------------------------------------------------------
SECRET_KEY = env_secret("RTBF_SECRET_KEY", file_name="secret_key")
RTBF_GATE_KEY = env_secret("RTBF_GATE_KEY", file_name="gate_key")  # of the gate's keyed digests
RTBF_GATEWAY_KEY = (  # the playground's key at the gateway; in production there is none unless set
    env("RTBF_GATEWAY_KEY", "")
    if RTBF_PRODUCTION
    else env_secret("RTBF_GATEWAY_KEY", file_name="gateway_key")
)
DEBUG = env_bool("RTBF_DEBUG", default=False)
if DEBUG and RTBF_PRODUCTION:
    raise ImproperlyConfigured(
        "RTBF_DEBUG shows settings and data to strangers: not in production."
    )
ALLOWED_HOSTS = env("RTBF_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1],testserver").split(",")
ROOT_URLCONF = "rtbf.urls"
WSGI_APPLICATION = "rtbf.wsgi.application"
ASGI_APPLICATION = "rtbf.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "requests_app.StaffMember"

INSTALLED_APPS = [
    "rtbf",
    "requests_app",
    "workers",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.forms",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "csp",
]

MIDDLEWARE = [
    "rtbf.telemetry.traced",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "requests_app.middleware.current_record",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "requests_app.middleware.api_in_english",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "requests_app.middleware.private_pages",
    "requests_app.middleware.staff_sessions",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "requests_app.context.controller",
            ],
        },
    },
]
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"

# --- Database: the truth ------------------------------------------------------------------------
DATABASES = {
    "default": dj_database_url.parse(
        env("DATABASE_URL", f"sqlite:///{RTBF_VAR_DIR / 'rtbf.sqlite3'}"),
        conn_max_age=60,
        conn_health_checks=True,  # a restart of the database costs no page
    )
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # One writer at a time, taken at BEGIN, so that a read-then-write never meets a stale snapshot.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # secure_delete: what sealing removed must not linger in free pages.
        "init_command": (
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON;"
        ),
    }

# --- Broker: only a wake-up ---------------------------------------------------------------------
REDIS_URL = env("REDIS_URL", "redis://127.0.0.1:6379/0")
CELERY_BROKER_URL = REDIS_URL
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "legal"
CELERY_TASK_ROUTES = {"workers.*": {"queue": "model"}}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Late, so that a worker that dies gives its message back; what comes twice meets the row's lease.
CELERY_TASK_ACKS_LATE = True
# A server that hangs, or is behind a cut line, counts as one that is away. Workers wait for
# messages a second at a time, far below that.
REDIS_TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 5}
CELERY_BROKER_TRANSPORT_OPTIONS = {
    **REDIS_TIMEOUTS,
    "visibility_timeout": int(RTBF_LONGEST_TASK_HOURS * 3600) + 3600,
    "max_retries": 1,  # a page must not wait for a lost broker: the sweep sends the wake-up again
    "interval_start": 0,
    "socket_connect_timeout": 5,
}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {
    "sweep-runs": {"task": "requests_app.sweep_runs", "schedule": RTBF_SWEEP_SECONDS},
    "sweep-rechecks": {"task": "requests_app.sweep_rechecks", "schedule": RTBF_SWEEP_SECONDS},
    "queue-rechecks": {"task": "requests_app.queue_rechecks", "schedule": 3600},
    "sweep-searches": {"task": "requests_app.sweep_searches", "schedule": RTBF_SWEEP_SECONDS},
    "publish-restrictions": {
        "task": "workers.publish_restrictions",
        "schedule": RTBF_SWEEP_SECONDS,
        "options": {"queue": "legal", "expires": 2 * RTBF_SWEEP_SECONDS},
    },
    "note-alive": {
        "task": "workers.note_alive",
        "schedule": 30,
        "options": {"queue": "model", "expires": 30},
    },
    "remove-retired-adapters": {
        "task": "workers.remove_retired_adapters",
        "schedule": 3600,
        "options": {"queue": "legal", "expires": 3600},
    },
    "send-letters": {"task": "requests_app.send_letters", "schedule": RTBF_SWEEP_SECONDS},
    "remind-staff": {"task": "requests_app.remind_staff", "schedule": 3600},
    "sweep-exports": {"task": "requests_app.sweep_exports", "schedule": RTBF_SWEEP_SECONDS},
    "remove-exports": {"task": "requests_app.remove_exports", "schedule": 3600},
    "purge-drafts": {"task": "requests_app.purge_drafts", "schedule": 3600},
    "apply-retention": {"task": "requests_app.apply_retention", "schedule": 6 * 3600},
    "tell-recipients": {"task": "requests_app.tell_recipients", "schedule": RTBF_SWEEP_SECONDS},
    "send-callbacks": {"task": "requests_app.send_callbacks", "schedule": RTBF_SWEEP_SECONDS},
    "collect-marks": {"task": "requests_app.collect_marks", "schedule": RTBF_SWEEP_SECONDS},
    "publish-checkpoint": {"task": "requests_app.publish_checkpoint", "schedule": 600},
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "rtbf",
        "OPTIONS": {**REDIS_TIMEOUTS, "serializer": "rtbf.cache.JsonSerializer"},
    }
}

# --- Staff log-in -------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
ACCOUNT_ADAPTER = "requests_app.accounts.StaffAccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
ACCOUNT_SESSION_REMEMBER = False  # a session ends with the browser, and see RTBF_SESSION_HOURS
ACCOUNT_RATE_LIMITS = {"login_failed": "10/10m/ip,5/10m/key"}
MFA_ADAPTER = "requests_app.accounts.SecondFactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not RTBF_PRODUCTION  # http on this machine
MFA_TOTP_ISSUER = RTBF_CONTROLLER_NAME
MFA_TOTP_TOLERANCE = 1  # one step of 30 s, for clocks that differ
# Company log-in (OpenID Connect): for accounts that exist, by their verified address; no sign-up.
RTBF_OIDC_ISSUER = env("RTBF_OIDC_ISSUER", "").rstrip("/")
RTBF_OIDC_NAME = env("RTBF_OIDC_NAME", "Company log-in")
SOCIALACCOUNT_ADAPTER = "requests_app.accounts.CompanyAccountAdapter"
SOCIALACCOUNT_EMAIL_AUTHENTICATION = True
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_LOGIN_ON_GET = True  # a link: form-action would forbid the way to the issuer
SOCIALACCOUNT_PROVIDERS = {}
if RTBF_OIDC_ISSUER:
    SOCIALACCOUNT_PROVIDERS = company_log_in(
        RTBF_OIDC_ISSUER, os.environ.get("RTBF_OIDC_CLIENT_ID"), os.environ.get("RTBF_OIDC_SECRET")
    )
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/app/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --- Mail ---------------------------------------------------------------------------------------
DEFAULT_FROM_EMAIL = RTBF_CONTROLLER_EMAIL
EMAIL_BACKEND = env(
    "EMAIL_BACKEND",
    "django.core.mail.backends.smtp.EmailBackend"
    if RTBF_PRODUCTION
    else "requests_app.outbox.EmailBackend",
)
EMAIL_FILE_PATH = env("EMAIL_FILE_PATH", str(RTBF_VAR_DIR / "outbox"))
EMAIL_HOST = env("EMAIL_HOST", "localhost")
EMAIL_PORT = int(env("EMAIL_PORT", "25"))
EMAIL_HOST_USER = env("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env("EMAIL_HOST_PASSWORD", "")
EMAIL_TIMEOUT = 20
EMAIL_USE_TLS = env_bool("EMAIL_USE_TLS", default=False)

# --- Language, time, files ----------------------------------------------------------------------
LANGUAGE_CODE = "en"
LOCALE_PATHS = [BASE_DIR / "locale"]
EU_LANGUAGES = {
    "bg": "Български", "cs": "Čeština", "da": "Dansk", "de": "Deutsch", "el": "Ελληνικά",
    "en": "English", "es": "Español", "et": "Eesti", "fi": "Suomi", "fr": "Français",
    "ga": "Gaeilge", "hr": "Hrvatski", "hu": "Magyar", "it": "Italiano", "lt": "Lietuvių",
    "lv": "Latviešu", "mt": "Malti", "nl": "Nederlands", "pl": "Polski", "pt": "Português",
    "ro": "Română", "sk": "Slovenčina", "sl": "Slovenščina", "sv": "Svenska",
}  # fmt: skip
LANG_INFO.setdefault(  # the one official language of the EU that Django does not know
    "mt", {"bidi": False, "code": "mt", "name": "Maltese", "name_local": "Malti"}
)
# Offered: English, and each whose catalogue is there; tests let no catalogue have a gap.
LANGUAGES = [
    (code, name)
    for code, name in EU_LANGUAGES.items()
    if code == "en" or (BASE_DIR / "locale" / code / "LC_MESSAGES" / "django.mo").exists()
]
FORMAT_MODULE_PATH = ["rtbf.formats"]
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_SECURE = RTBF_PRODUCTION
RTBF_REVIEWED_LETTERS_ONLY = env_bool("RTBF_REVIEWED_LETTERS_ONLY", default=RTBF_PRODUCTION)
USE_TZ = True
TIME_ZONE = env("RTBF_TIME_ZONE", "Europe/Brussels")
STATIC_URL = "static/"
STATIC_ROOT = env("RTBF_STATIC_ROOT", str(RTBF_VAR_DIR / "static"))
WHITENOISE_USE_FINDERS = not RTBF_PRODUCTION
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "checkpoints": {
        "BACKEND": env("RTBF_CHECKPOINT_STORAGE", "django.core.files.storage.FileSystemStorage"),
        "OPTIONS": json.loads(
            env(
                "RTBF_CHECKPOINT_OPTIONS",
                json.dumps({"location": str(RTBF_VAR_DIR / "checkpoints")}),
            )
        ),
    },
}

if storage := env("RTBF_ADAPTER_STORAGE", ""):  # of adapters, where several machines share them
    STORAGES["adapters"] = {
        "BACKEND": storage,
        "OPTIONS": json.loads(env("RTBF_ADAPTER_OPTIONS", "{}")),
    }

# A file that somebody uploads is looked at in memory and never written to disk; a larger one is not
# taken at all.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]

# --- Headers ------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
    }
}
SECURE_REFERRER_POLICY = "same-origin"  # no-referrer would void the Origin of our own forms
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = RTBF_PRODUCTION
SECURE_SSL_REDIRECT = RTBF_PRODUCTION and env_bool("RTBF_SSL_REDIRECT", default=True)
SECURE_REDIRECT_EXEMPT = ["^(healthz|readyz)$"]  # asked from inside, over plain HTTP
SECURE_HSTS_SECONDS = 31_536_000 if RTBF_PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = RTBF_PRODUCTION
SECURE_HSTS_PRELOAD = RTBF_PRODUCTION
if RTBF_PRODUCTION and env_bool("RTBF_BEHIND_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Being operated -----------------------------------------------------------------------------
RTBF_METRICS_TOKEN = env("RTBF_METRICS_TOKEN", "")  # without one there is no /metrics
RTBF_LOG_JSON = env_bool("RTBF_LOG_JSON", default=False)
RTBF_OTEL_ENDPOINT = env("RTBF_OTEL_ENDPOINT", "")  # of an OpenTelemetry collector; empty: none
RTBF_SENTRY_DSN = env("RTBF_SENTRY_DSN", "")
# --- Logging: to standard error, refusing first: no text that could be personal data -------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "scrubbed": {"()": f"rtbf.scrubbing.{'ScrubbedJson' if RTBF_LOG_JSON else 'Scrubbed'}"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "scrubbed"}},
    "root": {"handlers": ["stderr"], "level": env("RTBF_LOG_LEVEL", "INFO")},
    "loggers": {
        # Django and uvicorn bring handlers of their own, which would write whole texts.
        **{name: {"handlers": [], "propagate": True} for name in ("django", "uvicorn")},
        "uvicorn.error": {"handlers": [], "propagate": True},
        "uvicorn.access": {"handlers": [], "propagate": False},  # or --no-access-log is undone
        "django.server": {"handlers": [], "propagate": True, "level": "WARNING"},
        "httpx": {"level": "WARNING"},
    },
}
