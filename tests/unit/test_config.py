"""Settings: where they come from, and what stops the start."""

from dataclasses import asdict
from pathlib import Path

import pytest

from scheduler import config
from scheduler.api.attributes import FENCE_TAINT
from scheduler.config import Config, ConfigError
from scheduler.model.snapshot import Policy


def test_without_any_source_the_defaults_hold():
    assert config.load(environment={}) == Config()


def test_the_environment_goes_over_the_file_and_flags_over_both(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("scheduler_name: from-file\nweb_port: 1\nlease_name: from-file\n")
    environment = {"TUTTI_CONFIG_WEB_PORT": "2", "TUTTI_CONFIG_LEASE_NAME": "from-environment", "PATH": "/bin"}

    loaded = config.load(file, {"lease_name": "from-flag", "context": None}, environment)

    assert (loaded.scheduler_name, loaded.web_port, loaded.lease_name) == ("from-file", 2, "from-flag")
    assert loaded.context is None


def test_an_unknown_key_stops_the_start_and_is_named_where_it_stands(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("schedulerName: tutti\n")
    with pytest.raises(
        ConfigError, match=r"schedulerName in .*config\.yaml: there is no such setting; .*scheduler_name"
    ):
        config.load(file)


def test_an_unknown_variable_of_ours_stops_the_start():
    with pytest.raises(ConfigError, match="TUTTI_CONFIG_WEBPORT: there is no such setting"):
        config.load(environment={"TUTTI_CONFIG_WEBPORT": "80"})


def test_variables_that_kubernetes_makes_for_a_service_named_tutti_are_not_settings():
    environment = {"TUTTI_SCHEDULER_PORT": "tcp://10.0.0.1:8080", "TUTTI_SCHEDULER_SERVICE_HOST": "10.0.0.1"}
    assert config.load(environment=environment) == Config()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"web_port": "many"},
            r"--set web_port: 'many' cannot be used: .*integer.*; it means: Port to listen on.*8080",
        ),
        ({"cycle_interval_seconds": -1}, "--set cycle_interval_seconds: -1 cannot be used"),
        ({"web_host": "0.0.0.0"}, "--set web_host: '0.0.0.0' is no loopback address.*port-forward"),
        ({"lease_renew_seconds": 20}, "--set lease_renew_seconds: 20.0 does not lie between"),
        (
            {"nosuch": "1"},
            "--set nosuch: there is no such setting; remove it, or use one of age_full_hours, age_weight",
        ),
        ({"kubeconfig": 7}, "--kubeconfig: 7 cannot be used"),
        ({"log_format": "xml"}, "--set log_format: 'xml' cannot be used"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_cure(flags, message):
    with pytest.raises(ConfigError, match=message):
        config.load(flags=flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "config.yaml, line 1: is no valid YAML; correct the file"),
        ("- a\n- b\n", "config.yaml: holds no settings"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read \(No such file"):
        config.load(tmp_path / "absent.yaml")


def test_every_choice_of_the_policy_can_be_set():
    policy = Policy(
        scheduler_name="other",
        seed=7,
        default_queue="all",
        solver_enabled=False,
        solver_deterministic_seconds=2.0,
        solver_gangs=3,
        allocator_steps=9,
        device_fence_taint=FENCE_TAINT,
        spread=True,
        move_after_seconds=60.0,
        stages=("allocate", "reclaim"),
    )
    flags = asdict(policy)
    assert flags.pop("device_fence_taint") == FENCE_TAINT
    assert config.load(flags=flags | {"device_fence": "taint"}).policy() == policy
    assert not config.load(flags={"device_fence": "verify"}).policy().device_fence_taint


def test_stages_are_written_as_a_list_with_commas_and_unknown_ones_refused():
    assert config.load(flags={"stages": "allocate, preempt"}).policy().stages == ("allocate", "preempt")
    with pytest.raises(ConfigError, match="stages"):
        config.load(flags={"stages": "allocate,steal"})


def test_every_setting_says_what_it_is_and_has_a_default():
    for name, field in Config.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name
