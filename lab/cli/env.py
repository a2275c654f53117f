"""`lab env`."""

from lab.cli.options import Json, Section, command
from lab.cli.output import print_table, show_json


@command(Section.KEEP)
def env(as_json: Json = False) -> None:
    """Versions and machine: lab env"""
    import torch

    from lab.run_folder.writer import environment

    facts = environment()
    facts["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["bfloat16_cpu"] = torch.cpu._is_avx512_bf16_supported()
    show_json(facts) if as_json else print_table([{"what": key, "value": value} for key, value in facts.items()])
