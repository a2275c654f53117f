"""Recipes, overrides, precedence, and the one line that every mistake is answered with."""

import pydantic
import pytest
from support.errors import assert_says

import lab
from lab.config.resolve import configure, merged, parse_override, recipe_names, recipes, validated, written
from lab.config.schema import RunConfig
from lab.core import registry
from lab.core.errors import LabError
from lab.data.loading import load_tasks

SECTIONS = {name: field.annotation for name, field in RunConfig.model_fields.items() if isinstance(field.annotation, type)}
SECTIONS = {name: kind for name, kind in SECTIONS.items() if issubclass(kind, pydantic.BaseModel)}
NEEDS_MEMORY = "needs stored examples: set memory.per_task, memory.per_class or memory.total above 0"
PLUGINS = [registry.routers, registry.experts, registry.methods]
NAMES = {kind.kind: ", ".join(kind.names()) for kind in PLUGINS}
METHOD = registry.methods.names()[0]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe file in the current folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


# recipes ----------------------------------------------------------------------------------------------------------------------


def test_every_shipped_recipe_resolves():
    reference = {"oracle", "sequential", "uniform", "full", "per-task", "multitask"}
    published = {"l2r", "l2r-merge", "replay", "inclora", "olora"}
    assert set(recipe_names()) >= reference | published
    for name in recipe_names():
        config = configure(name)
        assert config.recipe == name and config.about
    assert {row["name"]: row["about"] for row in recipes()} == {name: configure(name).about for name in recipe_names()}


def test_what_the_reference_recipes_share():
    l2r, merge, oracle, uniform = (configure(name).to_dict() for name in ("l2r", "l2r-merge", "oracle", "uniform"))
    for other, differs in ((merge, {"composition"}), (oracle, {"router"}), (uniform, {"router"})):
        assert {key for key in l2r if l2r[key] != other[key]} == {"recipe", "about"} | differs
    assert configure("replay").memory == configure("l2r").memory
    assert configure("replay").train == configure("sequential").train


@pytest.mark.parametrize("name", recipe_names())
def test_round_trip(name):
    config = configure(name, ["router.heads=2", "train.lr=1e-3", "stream.tasks=[a, b]"], seed=3)
    assert validated(config.to_dict()) == config
    assert validated(config.to_dict()).to_dict() == config.to_dict()


def test_base(recipe):
    recipe("base: l2r\nseed: 5\nrouter: {gate: softmax}\n", "first.yaml")
    config = configure(recipe("base: first.yaml\nabout: mine\nrouter_training: {steps: 7}\n"))
    assert (config.recipe, config.about, config.seed, config.router.gate) == ("mine", "mine", 5, "softmax")
    assert (config.memory.per_task, config.router_training.steps) == (100, 7)


def test_base_is_found_beside_the_recipe(recipe, tmp_path):
    (tmp_path / "sub").mkdir()
    recipe("seed: 5\n", "sub/first.yaml")
    assert configure(recipe("base: first.yaml\n", "sub/second.yaml")).seed == 5


def test_a_recipe_is_its_own_base_by_any_path(recipe, tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(LabError, match=r"recipe a.yaml is its own base: a.yaml > a.yaml$"):
        configure(recipe("base: ../sub/a.yaml\n", "sub/a.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "recipe mine.yaml, line 2: not valid YAML (did not find expected node content)"),
        ("- l2r\n", "recipe mine.yaml must be a mapping of options to values, not list"),
        ("base: l2rr\n", "unknown recipe 'l2rr': did you mean 'l2r'?"),
        ("base: 5\n", "recipe mine.yaml: base = 5 must be the name of a recipe or a YAML file"),
        ("base: mine.yaml\n", "recipe mine.yaml is its own base: mine.yaml > mine.yaml"),
        ("base: other.yaml\n", "there is no recipe file other.yaml"),
        ("router:\n", f"router = None: needs a name, one of {NAMES['router']}"),
        ("router: {name: 5}\n", f"router = {{'name': 5}}: needs a name, one of {NAMES['router']}"),
        ("experts: 5\n", f"experts = 5: needs a name, one of {NAMES['expert kind']}"),
        ("methods: [replay]\n", f"methods = ['replay']: write a mapping of names to options, for example {{{METHOD}: {{}}}}"),
        ("methods: {replay: 5}\n", "methods.replay = 5: write option: value below it, or {} for the defaults"),
        ("train: 5\n", "train = 5: input should be a valid dictionary or instance of TrainConfig"),
    ],
)
def test_broken_recipes(recipe, text, message):
    with pytest.raises(LabError) as error:
        configure(recipe(text))
    assert str(error.value) == message


def test_recipe_file_that_is_not_utf8(recipe, tmp_path):
    name = recipe("")
    (tmp_path / name).write_bytes(b"about: \xff\n")
    with pytest.raises(LabError, match=r"^recipe mine.yaml: not valid YAML \(it is not UTF-8\)$"):
        configure(name)


# nearest names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=1", "unknown option 'sed': did you mean 'seed'?"),
        ("trian.lr=1", "unknown option 'trian': did you mean 'train'?"),
        ("str=1", "unknown option 'str': did you mean 'stream'?"),  # names like those of types
        ("stream.max_trian=5", "unknown option of stream 'max_trian': did you mean 'max_train'?"),
        ("backbone.thread=5", "unknown option of backbone 'thread': did you mean 'threads'?"),
        ("memory.per_tsk=5", "unknown option of memory 'per_tsk': did you mean 'per_task'?"),
        ("train.epoch=5", "unknown option of train 'epoch': did you mean 'epochs'?"),
        ("router_training.step=5", "unknown option of router_training 'step': did you mean 'steps'?"),
        ("checkpoint.evry=5", "unknown option of checkpoint 'evry': did you mean 'every'?"),
        ("router.temprature=1", "unknown option of router 'temprature': did you mean 'temperature'?"),
        ("router.name=gate", "unknown router 'gate': did you mean 'gates'?"),
        ('router="ga\\nte"', "unknown router 'ga\\nte': did you mean 'gates'?"),
        ("router=orakel", "unknown router 'orakel': did you mean 'oracle'?"),
        ("experts.rnak=4", "unknown option of experts 'rnak': did you mean 'rank'?"),
        ("experts=lorra", "unknown expert kind 'lorra': did you mean 'lora'?"),
        ("methods.repaly={}", "unknown method 'repaly': did you mean 'replay'?"),
        ("methods.replay.per_stp=4", "unknown option of methods.replay 'per_stp': did you mean 'per_step'?"),
        (
            "train.xyz=1",
            "unknown option of train 'xyz': there are: batch_size, clip, epochs, loss_classes, lr, warmup, weight_decay",
        ),
    ],
)
def test_misspelt_options(override, message):
    with pytest.raises(LabError) as error:
        configure("l2r", [override])
    assert str(error.value) == message


def near_misses():
    """Every option of every section and plug-in with its last letter doubled."""
    for section, kind in SECTIONS.items():
        yield from (
            (f"{section}.{name}{name[-1]}=1", f"{section} '{name}{name[-1]}': did you mean '{name}'?")
            for name in kind.model_fields
        )
    for kind, section in zip(PLUGINS, ("router", "experts", "methods"), strict=True):
        for plugin in kind.names():
            for name in kind.get(plugin).Options.model_fields:
                if name != "name":
                    place = section if section != "methods" else f"methods.{plugin}"
                    yield (
                        f"{place}={{name: {plugin}, {name}{name[-1]}: 1}}",
                        f"{place} '{name}{name[-1]}': did you mean '{name}'?",
                    )
    yield from (
        (f"{name}{name[-1]}=1", f"unknown option '{name}{name[-1]}': did you mean '{name}'?") for name in RunConfig.model_fields
    )


@pytest.mark.parametrize(("override", "message"), [*near_misses()])
def test_every_option_offers_itself(override, message):
    with pytest.raises(LabError) as error:
        configure("replay", [override])
    assert str(error.value).endswith(message)


def test_other_misspelt_names():
    for call, message in [
        (lambda: configure("l2"), "unknown recipe 'l2': did you mean 'l2r'?"),
        (lambda: configure("zzz"), f"unknown recipe 'zzz': there are: {', '.join(recipe_names())}"),
        (lambda: configure("mine.yaml"), "there is no recipe file mine.yaml"),
        (lambda: load_tasks("bultin"), "unknown stream 'bultin': did you mean 'builtin'?"),
        (lambda: load_tasks("builtin", tasks=["news_topics"]), "unknown task 'news_topics': did you mean 'news_topic'?"),
        (
            lambda: lab.run("l2r", stream="builtin", backbone="tny"),
            "unknown backbone 'tny': did you mean 'tiny'? Or a hub id like owner/model, or an existing folder",
        ),
    ]:
        with pytest.raises(LabError) as error:
            call()
        assert str(error.value) == message


# overrides --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1e-3", 0.001),
        ("a=-2.5E2", -250.0),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=[x, y]", ["x", "y"]),
        ("a=[x,1]", ["x", 1]),
        ("a=x,1", ["x", 1]),
        ("a=x-y,", ["x-y"]),
        ("a=x, y", "x, y"),
        ("a=/data/x,y", "/data/x,y"),
        ("a='x,y'", "x,y"),
        ("a={b: 2}", {"b": 2}),
        ("a=some words", "some words"),
        ("a=x=y", "x=y"),
        ("a='5'", "5"),
        ("a=2021-13-45", "2021-13-45"),
        ("a.b.c=1", {"b": {"c": 1}}),
        (" a . b = 2", None),
    ],
)
def test_parse_override(text, value):
    if value is None and "null" not in text and text != "a=":
        assert parse_override(text) == {"a ": {" b": 2}}
    else:
        assert parse_override(text) == {"a": value}


@pytest.mark.parametrize("section", ["stream", "backbone", "router", "experts"])
def test_a_section_by_its_name(section):
    name = {"stream": "mtl5", "backbone": "tiny", "router": "gates", "experts": "bottleneck"}[section]
    assert parse_override(f"{section}={name}") == {section: {"name": name}}
    assert getattr(configure("l2r", [f"{section}={name}"]), section).name == name
    assert getattr(configure("l2r", **{section: name}), section).name == name


def test_text_that_would_be_read_as_a_list_is_written_in_quotation_marks():
    for value in ("x,y", "x,", "x, y", ["x", "y"], ["x"]):
        assert parse_override(f"a={written(value)}") == {"a": value}


@pytest.mark.parametrize("text", ["", "train.lr", "=1", " =1"])
def test_overrides_that_are_none(text):
    with pytest.raises(LabError, match=r"is not an option: write key=value, for example train.lr=0.001$"):
        parse_override(text)


def test_override_that_is_no_yaml():
    with pytest.raises(LabError) as error:
        parse_override("stream.tasks=[a")
    assert_says(error, "'stream.tasks'", "cannot be read", "[a")


# precedence -------------------------------------------------------------------------------------------------------------------


def test_precedence(recipe):
    name = recipe("seed: 2\ntrain: {lr: 0.5, epochs: 3}\n")
    assert configure().train.lr == 2e-3
    assert configure(name).train.lr == 0.5
    config = configure(name, ["train.lr=0.25", "seed=4"])
    assert (config.train.lr, config.train.epochs, config.seed) == (0.25, 3, 4)
    assert configure(name, ["train.lr=0.25", "seed=4", "train.lr=0.125"], seed=6).seed == 6
    assert configure(name, ["train.lr=0.25", "train.lr=0.125"]).train.lr == 0.125


def test_an_option_is_not_lost_when_its_section_is_named_too():
    config = configure(
        "l2r", ["stream.max_train=100", "backbone.threads=2", "router.heads=2", "router=oracle"], stream="mtl5", backbone="tiny"
    )
    assert (config.stream.name, config.stream.max_train) == ("mtl5", 100)
    assert (config.backbone.name, config.backbone.threads) == ("tiny", 2)
    assert (config.router.name, config.router.heads) == ("oracle", 2)


def test_default_plugins_take_options():
    config = configure(overrides=["router.heads=2", "experts.rank=4"])
    assert (config.router.name, config.router.heads, config.experts.name, config.experts.rank) == ("uniform", 2, "lora", 4)


def test_another_plugin_drops_the_options_of_the_old_one(recipe):
    name = recipe("base: l2r\nrouter: {gate: softmax, temperature: 3}\nexperts: {rank: 4}\nstream: {name: mtl5, tasks: mtl5-i}\n")
    assert configure(name).router.temperature == 3
    assert configure(name, ["router=uniform"]).router.model_dump() == {"name": "uniform", "heads": 1}
    assert configure(name, ["experts=bottleneck"]).experts == configure("l2r", ["experts=bottleneck"]).experts
    assert configure(name, ["router=gates"]).router.temperature == 3
    assert configure(name, stream="builtin").stream.tasks is None
    assert merged({"name": "a", "x": 1}, {"x": 2}) == {"name": "a", "x": 2}


# values that cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("l2r", "train.lr=0", "train.lr = 0: input should be greater than 0"),
        ("l2r", "train.lr=nan", "train.lr = 'nan': input should be a finite number"),
        ("l2r", "train.lr=1e9", "train.lr = 1000000000.0: input should be less than or equal to 10"),
        ("l2r", "train.lr=fast", "train.lr = 'fast': input should be a valid number, unable to parse string as a number"),
        ("l2r", "train.lr=null", "train.lr = None: input should be a valid number"),
        ("l2r", "train.clip=inf", "train.clip = 'inf': input should be a finite number"),
        ("l2r", "experts.alpha=inf", "experts.alpha = 'inf': input should be a finite number"),
        ("l2r", "train.epochs=0", "train.epochs = 0: input should be greater than or equal to 1"),
        ("l2r", "train.epochs=1.5", "train.epochs = 1.5: input should be a valid integer, got a number with a fractional part"),
        ("l2r", "train.epochs=1e12", "train.epochs = 1000000000000.0: input should be less than or equal to 1000"),
        ("l2r", "seed=-1", "seed = -1: input should be greater than or equal to 0"),
        ("l2r", "seed=1e12", "seed = 1000000000000.0: input should be less than or equal to 2147483647"),
        ("l2r", "experts.rank=0", "experts.rank = 0: input should be greater than or equal to 1"),
        ("l2r", "router.gate=hard", "router.gate = 'hard': input should be 'gumbel-sigmoid', 'sigmoid' or 'softmax'"),
        ("replay", "methods.replay.per_step=0", "methods.replay.per_step = 0: input should be greater than or equal to 1"),
        ("l2r", "scenario=clas", "scenario = 'clas': input should be 'task', 'domain' or 'class'"),
        ("l2r", "memory.per_class=5", "memory.per_task and memory.per_class exclude each other: set all but one of them to 0"),
        ("replay", "memory.total=50", "memory.per_task and memory.total exclude each other: set all but one of them to 0"),
        (
            "replay",
            "memory.policy=balanced",
            "memory.policy says how memory.total is shared: set memory.total above 0 and the other budgets to 0",
        ),
        *(
            (
                recipe,
                "router_training.steps=0",
                f"router_training.steps = 0: router {router} learns on stored examples alone and would stay as it begins: "
                "use router_training.steps=80, or another router",
            )
            for recipe, router in (("l2r", "gates"), ("l2r-mh", "gates"))
        ),
        ("phatgoose", "experts=prompt", "router phatgoose decides per token, 'prompt' experts act per example: use another kind"),
        ("l2r", "memory.per_task=0", f"router_training.steps {NEEDS_MEMORY}"),
        *((name, "memory.per_task=0", f"methods.{name} {NEEDS_MEMORY}") for name in ("agem", "derpp", "replay")),
        (
            "l2r",
            "train.loss_classes=seen",
            "train.loss_classes = seen trains classifier rows of earlier tasks, isolated experts must not: "
            "use train.loss_classes=task or experts.isolated=false",
        ),
        *(
            (
                "l2r",
                f"methods.{name}={{}}",
                f"methods.{name} brings earlier tasks into training, isolated experts must not know of them: "
                "use experts.isolated=false or experts.allocation=shared",
            )
            for name in registry.methods.names()
        ),
        ("progprompt", "scenario=class", "recipe progprompt makes no sense in scenario class: use scenario task"),
        (
            "l2p",
            "router.top=11",
            "router l2p chooses 11 experts (router.top) from a pool, experts.allocation is 10: "
            "give it the size of a pool that has as many",
        ),
        (
            "l2p",
            "experts.allocation=0",
            "experts.allocation = 0: input should be 'per_task' or 'shared'; "
            "experts.allocation = 0: input should be greater than or equal to 1",
        ),
        (
            "progprompt",
            "experts.allocation=3",
            "router progressive adds the true task's expert to the earlier ones: use experts.allocation=per_task",
        ),
        ("l2p", "experts.length=0", "experts.length = 0: input should be greater than or equal to 1"),
        ("l2p", "experts.skip=0.5", "experts of kind 'prompt' stand before the text, in no block: leave out experts.skip"),
        (
            "l2p",
            "experts.targets=[query]",
            "experts of kind 'prompt' stand before the text, in no block: leave out experts.targets",
        ),
        ("per-task", "scenario=class", "recipe per-task makes no sense in scenario class: use scenario task"),
        (
            "multitask",
            "train.loss_classes=task",
            "methods.joint trains one model on all tasks: use experts.allocation=shared and train.loss_classes=seen",
        ),
        (
            "sequential",
            "methods.orthogonal={}",
            "methods.orthogonal holds a new LoRA orthogonal to earlier ones: "
            "use experts.name=lora and experts.allocation=per_task",
        ),
        (
            "full",
            "router=sum",
            "experts.name = full is one set of weights, trained on task after task: "
            "use experts.allocation=shared and router=uniform",
        ),
        ("ewc", "methods.ewc.labels=drawn", "methods.ewc.labels = 'drawn': input should be 'sampled' or 'given'"),
        ("sequential", "router=oracle", "router oracle picks the expert of the true task: use experts.allocation=per_task"),
    ],
)
def test_refused(recipe, override, message):
    with pytest.raises(LabError) as error:
        configure(recipe, [override])
    assert str(error.value) == message


def test_several_mistakes_are_one_line():
    with pytest.raises(LabError) as error:
        configure("l2r", ["train.lr=0", "sed=1"])
    assert_says(error, "train.lr = 0", "greater than 0", "unknown option 'sed'", "'seed'")


# descriptions ---------------------------------------------------------------------------------------------------------------


def test_every_option_has_a_description():
    models = {"RunConfig": RunConfig, **SECTIONS}
    models |= {f"{kind.kind} {name}": kind.get(name).Options for kind in PLUGINS for name in kind.names()}
    bare = [
        f"{title}.{name}"
        for title, model in models.items()
        for name, field in model.model_fields.items()
        if not field.description and name != "name" and name not in SECTIONS
    ]
    assert bare == []
    for kind in (*PLUGINS, registry.streams):
        for name in kind.names():
            assert kind.get(name).about().endswith("."), f"{kind.kind} {name} has no sentence about itself"


def test_defaults_of_plugins_are_valid():
    for kind in PLUGINS:
        for name in kind.names():
            options = kind.options(name)
            assert options.name == name and kind.options(options.model_dump()) == options
