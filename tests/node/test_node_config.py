"""Settings of the node plugin: where they come from, and what stops the start."""

from pathlib import Path

import pytest

from dra_driver import config
from dra_driver.config import Config, ConfigError


def test_without_any_source_the_defaults_hold():
    assert config.load(environment={}) == Config()


def test_each_source_goes_over_the_one_before(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("node_name: file\npod_uid: file\ndriver: file\ncdi_dir: /file\nconnections: 3\n")
    environment = {
        "NODE_NAME": "pod",
        "POD_UID": "pod",
        "TUTTI_NODE_CONFIG_POD_UID": "environment",
        "TUTTI_NODE_CONFIG_DRIVER": "environment",
        "PATH": "/bin",
    }
    loaded = config.load(file, {"driver": "flag", "kubeconfig": None}, environment)
    assert (loaded.connections, loaded.node_name, loaded.pod_uid, loaded.driver) == (3, "pod", "environment", "flag")
    assert (loaded.cdi_dir, loaded.kubeconfig) == (Path("/file"), None)


def test_a_variable_of_the_pod_that_is_empty_says_nothing():
    assert config.load(environment={"NODE_NAME": "", "POD_UID": ""}) == Config()


def test_what_must_outlive_the_plugin_is_beside_its_socket_if_nothing_else_is_said():
    assert config.load(environment={}).data_dir == Path("/var/lib/kubelet/plugins/gpu.nvidia.com")
    chosen = config.load(flags={"plugin_dir": "/srv/tutti", "driver": "gpu.example.com"}, environment={})
    assert chosen.data_dir == Path("/srv/tutti")


@pytest.mark.parametrize(
    ("written", "read"),
    [("all", ("all",)), ("0, 3,GPU-7", ("0", "3", "GPU-7")), (2, ("2",)), (["0", "1"], ("0", "1")), ("", ())],
)
def test_a_list_may_be_one_word_with_commas(written: object, read: tuple[str, ...]):
    assert config.load(flags={"shared_gpus": written}, environment={}).shared_gpus == read


def test_an_unknown_key_stops_the_start_and_is_named_where_it_stands(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("nodeName: n1\n")
    with pytest.raises(ConfigError, match=r"nodeName in .*config\.yaml: there is no such setting; .*node_name"):
        config.load(file, environment={})
    with pytest.raises(ConfigError, match="TUTTI_NODE_CONFIG_NODE: there is no such setting"):
        config.load(environment={"TUTTI_NODE_CONFIG_NODE": "n1"})


def test_the_schedulers_settings_are_none_of_ours():
    assert config.load(environment={"TUTTI_CONFIG_SEED": "1", "TUTTI_SCHEDULER_PORT": "tcp://10.0.0.1"}) == Config()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"collect_seconds": 0}, "--set collect_seconds: 0 cannot be used: .*it means: So often .*600"),
        ({"lock_seconds": "long"}, "--set lock_seconds: 'long' cannot be used"),
        ({"driver": "GPU.nvidia.com"}, "--set driver: 'GPU.nvidia.com' is no DNS name; use a DNS name in lower case"),
        ({"driver": "../gpu"}, "--set driver: '../gpu' is no DNS name"),
        ({"driver": "g" * 64}, "--set driver: .* cannot be used: .*63"),
        ({"node_name": "n1/.."}, "--node: 'n1/..' is no DNS name"),
        ({"pod_uid": "../x"}, "--set pod_uid: '../x' is no uid; take metadata.uid"),
        ({"mig_configs": "configs.yaml"}, "--set mig_configs: 'configs.yaml' is relative; write the whole path"),
        ({"cdi_hook": "nvidia-cdi-hook"}, "--set cdi_hook: 'nvidia-cdi-hook' is relative; write the whole path"),
        ({"cdi_dir": "run/cdi"}, "--set cdi_dir: 'run/cdi' is relative; write the whole path"),
        ({"fake": "h100"}, "--fake: Fake machine 'h100': 'h100' is no board with a count"),
        ({"fake": "h100x99"}, "--fake: .*99 GPUs are more than a node has; 32 at most; or leave it out"),
        ({"fake_state": "/tmp/x"}, "--set fake_state: belongs to a machine that is made up; name the machine with"),
    ],
)
def test_what_cannot_be_used_is_refused_with_cause_and_cure(flags: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        config.load(flags=flags, environment={})


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "holds no settings"), ("a: [\n", "line 2: is no valid YAML"), (None, "cannot be read")],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str | None, message: str):
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(file, environment={})


def test_where_a_node_is_needed_one_must_be_named():
    with pytest.raises(ConfigError, match="node_name: is not set; set NODE_NAME"):
        config.required_node(config.load(environment={}))
    assert config.required_node(config.load(environment={"NODE_NAME": "n1"})) == "n1"


def test_every_setting_says_what_it_means():
    assert all((field.description or "").endswith(".") for field in Config.model_fields.values())
