"""The one set of patterns for secrets: what is one, what is none, and that neither costs much time."""

import time

import pytest

from offline_kit.core.redaction import find_secrets, redact_secrets

HEX32 = "9f86d081884c7d659a2feaa0c55ad015"
HEX40 = f"{HEX32}a3bf4f1b"
RANDOM = "Zq3vT8mK1xW7nB5cR2yL9pD4"
PEM = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
LINES = {
    f"KAGGLE_KEY={HEX32}": HEX32,
    f"os.environ['KAGGLE_KEY'] = '{HEX32}'": HEX32,
    f"OPENAI_KEY = '{RANDOM}'": RANDOM,
    f'aws_key: str = "{RANDOM}"': RANDOM,
    f'{{"username":"alice","key":"{HEX32}"}}': HEX32,
    f'f.write("{{\\"username\\": \\"alice\\", \\"key\\": \\"{HEX32}\\"}}")': HEX32,
    f"KAGGLE_API_TOKEN = 'KGAT_{HEX32}'": f"KGAT_{HEX32}",
    f"x_hf_{RANDOM}abcdefghij": f"hf_{RANDOM}abcdefghij",
    f"git+https://ghp_{RANDOM}abcdefghijkl@github.com/a/b": f"ghp_{RANDOM}abcdefghijkl",
    f"t = 'ghs_{RANDOM}abcdefghijkl'": f"ghs_{RANDOM}abcdefghijkl",
    f"# github_pat_11ABCDEFG0_{RANDOM}": f"github_pat_11ABCDEFG0_{RANDOM}",
    "aws_access_key_id = AKIAQ3EGRX5VTPOH7DN2": "AKIAQ3EGRX5VTPOH7DN2",
    "aws_secret_access_key = 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": "wJalrXUtn9EMI/K7MDENG/bPxRfiCY4uZk2LqTsA",
    "genai.configure('AIzaSyD3fGh1jK2lMn4oPq5rSt6uVw7xYz8aBcD')": "AIzaSyD3fGh1jK2lMn4oPq5rSt6uVw7xYz8aBcD",
    f'"private_key": "-----BEGIN PRIVATE KEY-----\\n{PEM}\\n': PEM,
    f"KEY = '''-----BEGIN OPENSSH PRIVATE KEY-----\n{PEM}\n{PEM}'''": PEM,
    f"wandb.login(key='{HEX40}')": HEX40,
    f"wandb.login('never', '{HEX40}')": HEX40,
    f"!wandb login {HEX40}": HEX40,
    f"wandb_v1_{RANDOM}_{RANDOM}{RANDOM}": RANDOM,
    f"sk-proj-{RANDOM}-{RANDOM}": RANDOM,
    f"client = OpenAI(api_key='sk-{RANDOM}{RANDOM}')": RANDOM,
    f"sk-ant-api03-{RANDOM}-{RANDOM}": RANDOM,
    f"xoxb-123456789012-{RANDOM}": RANDOM,
    f"https://hooks.slack.com/services/T0123ABCD/B0123ABCD/{RANDOM}": RANDOM,
    "password = 'hunter2'": "hunter2",
    "DB_PASSWORD=corr3ct-horse": "corr3ct-horse",
    "db:\n  password: corr3ct-horse": "corr3ct-horse",
    "psycopg2.connect('postgres://me:corr3ct-horse@db/x')": "corr3ct-horse",
    f"headers = {{'Authorization': 'Bearer {RANDOM}'}}": RANDOM,
    f"access_token = (\n    '{RANDOM}'\n)": RANDOM,
    f"machine api.wandb.ai\n  login user\n  password {HEX40}": HEX40,
    f"os.getenv('NEPTUNE_API_TOKEN', '{RANDOM}')": RANDOM,
    f"!huggingface-cli login --token {RANDOM}": RANDOM,
    f"[pypi]\nusername = __token__\npassword = pypi-AgE{RANDOM}{RANDOM}": RANDOM,
}
HARMLESS = [
    "token = tokenizer(text)",
    "token = tokenizer.decode(ids, skip_special_tokens=True)",
    'os.environ["WANDB_API_KEY"]',
    'key = os.environ["KAGGLE_KEY"]',
    'HF_TOKEN = os.environ.get("HF_TOKEN", "")',
    'os.environ["WANDB_API_KEY"] = UserSecretsClient().get_secret("wandb_api_key")',
    "secret_value_0 = user_secrets.get_secret('OPENAI_API_KEY_2')",
    'HF_TOKEN = "YOUR_TOKEN"',
    'hf_token = "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"',
    'token = "<your token here>"',
    'api_key = "your-api-key-123"',
    'openai.api_key = "sk-..."',
    'client = OpenAI(base_url="http://localhost:8000/v1", api_key="EMPTY")',
    'client = OpenAI(api_key="token-abc123")',
    f"COMMIT = '{HEX40}'",
    f'"sha256": "{HEX32}{HEX32}"',
    f"einops==0.8.1 --hash=sha256:{HEX32}{HEX32}",
    f"cache_key = '{HEX32}'",
    f"git+https://github.com/a/b@{HEX40}",
    "def password(self, password: str = 'password') -> None: ...",
    "login = LoginForm(password='password')",
    "pad_token = '<|endoftext|>'; eos_token_id = 151643",
    "df = df.merge(other, key='image_id')",
    "key = 'train_fold_0_of_the_year_2024'",
    "model = 'hf_efficientnet_b0_ns_jft_in1k'",
    "timm.create_model('tf_efficientnetv2_s.in21k_ft_in1k')",
    "password = getpass('password: ')",
    "password=self.password1, api_key=args.key2",
    "assert text.startswith('-----BEGIN PRIVATE KEY-----')",
    '{"token": {"type": "string"}, "password": null}',
    'os.getenv("DB_PASSWORD", "postgres")',
    "url = 'http://user:pass@localhost:8080/'",
    "proxy = f'http://{user}:{password}@{host}'",
    "def f(self, key: PositionalIndexer2D, password: FilterOrBool = False) -> None: ...",
    "data = {'cwd': 1, 'pwd': './data/philox-testset-1.csv'}",
    "Signature: 8a477f597d28d172789f06886806bc55",
    "attention = q @ key.transpose(-2, -1)",
    "secret: the sauce is in the augmentations",
]


@pytest.mark.parametrize("line", LINES)
def test_secrets_are_found_and_hidden(line: str) -> None:
    """Each is found where it stands, and neither the diff of adopt, a log nor a crash report shows it."""
    value = LINES[line]
    assert any(
        value in line[each.start : each.end] or line[each.start : each.end] in value
        for each in find_secrets(line)
    )
    for shown in (redact_secrets(line), redact_secrets(f"+ {line}")):
        assert value not in shown
        assert shown.count("\n") == line.count("\n")


@pytest.mark.parametrize("line", HARMLESS)
def test_ordinary_code_is_no_secret(line: str) -> None:
    """Variables, calls, blanks to fill in and hashes do not stop a build."""
    assert find_secrets(line) == []


def test_a_secret_says_what_it_is_and_not_its_value() -> None:
    """The kind and the name are for the message."""
    (one,) = find_secrets(f"HF_TOKEN = 'hf_{RANDOM}abcdefghij'")
    assert (one.kind, one.name) == ("Hugging Face token", "HF_TOKEN")
    assert RANDOM not in repr(one)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 400_000,
        "a=" * 200_000,
        "'key': '" * 40_000,
        "A9+/" * 100_000,
        "x://" * 80_000,
        "key " * 80_000,
        "\\'" * 160_000,
    ],
)
def test_long_lines_cost_no_time(text: str) -> None:
    """Minified and encoded files are read in one pass: no pattern looks twice at a long line."""
    began = time.process_time()
    find_secrets(text)
    assert time.process_time() - began < 20
