"""Calls of Python libraries that want something from the internet, by their full names, and what their arguments say."""

SHELLS = {
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
DOWNLOADS = {
    "urllib.request.urlretrieve": (("url", 0), ("filename", 1)),
    "wget.download": (("url", 0), ("out", 1)),
    "gdown.download": (("url", 0), ("output", 1)),
    "torch.hub.download_url_to_file": (("url", 0), ("dst", 1)),
    "torch.hub.load_state_dict_from_url": (("url", 0), ("model_dir", 9)),
    "requests.get": (("url", 0), ("", 9)),
    "urllib.request.urlopen": (("url", 0), ("", 9)),
}
"""Calls that fetch a file: where the address and the place stand."""
OF_HUB = {
    "huggingface_hub.hf_hub_download": ("repo_id", "file"),
    "huggingface_hub.snapshot_download": ("repo_id", "snapshot"),
    "datasets.load_dataset": ("path", "dataset folder"),
}
"""Calls that fetch from a hub by an id: the argument that it is, and what they give."""
BUILDERS = frozenset(
    {"csv", "json", "parquet", "arrow", "text", "pandas", "xml", "webdataset"}
    | {f"{kind}folder" for kind in ("image", "audio", "video", "pdf")}
)
"""What `load_dataset` takes for kinds of files, not for ids."""
READERS = frozenset(
    {"read_csv", "read_json", "read_parquet", "read_table", "read_excel", "imread", "open_url"}
)
"""Calls that take an address for a path."""
KAGGLE = {
    "kagglehub.dataset_download": "dataset",
    "kagglehub.model_download": "model",
    "kagglehub.notebook_output_download": "notebook",
    "kagglehub.competition_download": "competition",
    "kagglehub.utility_script_install": "notebook",
}
KAGGLE_API = {
    "dataset_download_files": "dataset",
    "dataset_download_file": "dataset",
    "dataset_download_cli": "dataset",
    "competition_download_files": "competition",
    "competition_download_file": "competition",
    "competition_download_cli": "competition",
    "kernels_output": "notebook",
    "kernels_output_cli": "notebook",
    "model_instance_version_download": "model",
}
"""Methods of Kaggle's client that download, and what."""
CORPORA = {"nltk.download": "nltk", "spacy.cli.download": "spacy"}
ACCOUNTS = frozenset(
    {"wandb.login", "kagglehub.login", "comet_ml.login", "kaggle.api.authenticate", "kaggle.authenticate"}
    | {f"huggingface_hub.{name}" for name in ("login", "notebook_login", "interpreter_login")}
)
SECRETS = "kaggle_secrets"
"""The module of Kaggle's whose every call asks Kaggle for a secret of the account."""
ASKS = {"get_secret": "''", "get_gcloud_credential": "''"} | dict.fromkeys(
    ("set_gcloud_credentials", "set_tensorflow_credential"), "None"
)
"""Methods that do, and what may stand for them."""
COLAB = ("google.colab.drive.mount", "google.colab.files.upload")
