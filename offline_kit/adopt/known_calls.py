"""Calls of Python libraries that want something from the internet, by their full names, and what their arguments say."""

SHELL_CALLS = {
    "subprocess.run": "{before}CompletedProcess([], 0, '', '')",
    "subprocess.call": "0",
    "subprocess.check_call": "0",
    "subprocess.check_output": "''",
    "subprocess.getoutput": "''",
    "subprocess.Popen": "",
    "os.system": "0",
    "get_ipython().system": "None",
    "get_ipython().getoutput": "[]",
    "pip.main": "0",
    "pip._internal.main": "0",
}
"""Calls that run a command, and what may stand for them."""
FILE_FORMATS = frozenset(
    {"csv", "json", "parquet", "arrow", "text", "pandas", "xml", "webdataset"}
    | {f"{kind}folder" for kind in ("image", "audio", "video", "pdf")}
)
"""What `load_dataset` takes for kinds of files, not for ids."""
LOGIN_CALLS = frozenset(
    {"wandb.login", "kagglehub.login", "comet_ml.login", "kaggle.api.authenticate", "kaggle.authenticate"}
    | {f"huggingface_hub.{name}" for name in ("login", "notebook_login", "interpreter_login")}
)
SECRETS_MODULE = "kaggle_secrets"
"""The module of Kaggle's whose every call asks Kaggle for a secret of the account."""
SECRET_METHODS = {"get_secret": "''", "get_gcloud_credential": "''"} | dict.fromkeys(
    ("set_gcloud_credentials", "set_tensorflow_credential"), "None"
)
"""Methods that do, and what may stand for them."""
COLAB_CALLS = ("google.colab.drive.mount", "google.colab.files.upload")
