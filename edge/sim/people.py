"""The invented people of every demo, drill and test: numbers of region 000000, which is assigned to nobody.

Who is for what stands in `purpose`. `in_session`: on the list of the demo's session; `other_room`: expected in another room of the site
today; the others are on the later session's list. Callers: the simulated card reader, the
simulated platform, tests. Frozen data; a test checks each number and that it agrees with its table row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

from edge.sessions import number
from edge.sessions.identity import Document, Identity

EMPLOYER = "样例化工(虚构)有限公司"
EMPLOYER_USCC = "91000000MA0000000X"


@dataclass(frozen=True, slots=True)
class SamplePerson:
    """One invented person: what a roster says of them, and what their card holds."""

    name: str
    id_no: str
    category: str                               # SPECIAL, PRINCIPAL, SAFETY-MGR, GENERAL
    trade: str | None
    exam_kind: str                              # 初训, 复审
    subject: str                                # 理论, or 实操 with its parts
    seat: str | None
    purpose: str
    in_session: bool = True
    other_room: bool = False
    on_hold: bool = False
    theory_passed_months_ago: int | None = None
    nation: str = "01"
    valid_from: date = date(2020, 1, 1)
    valid_to: date = date(2040, 1, 1)

    @property
    def candidate_id(self) -> str:
        """Stable and without meaning: `DEMO-` and the three digits of the number's sequence."""
        return f"DEMO-{self.id_no[14:17]}"

    def identity(self) -> Identity:
        """What this person's card says: a resident card; birth and sex as the number has them."""
        born, sex = number.birth(self.id_no), number.sex(self.id_no)
        if born is None or sex is None:
            raise ValueError("a sample person needs a well-formed number")
        return Identity(Document.RESIDENT, self.id_no, self.name, sex, born, self.valid_from, self.valid_to,
                        nation=self.nation, address="样例省样例市样例路1号", issuer="样例公安局")


PEOPLE: tuple[SamplePerson, ...] = (
    SamplePerson("样例甲", "000000199001010018", "SPECIAL", "1.2 低压电工作业", "初训", "理论", "01", "happy path"),
    SamplePerson("样例乙", "000000198502150022", "SPECIAL", "1.2 低压电工作业", "复审", "理论", "02", "review"),
    SamplePerson("样例丙", "000000199206300035", "SPECIAL", "2.1 熔化焊接与热切割作业", "初训", "理论", "03", "mixed trades"),
    SamplePerson("样例丁", "000000197811200041", "PRINCIPAL", "危险化学品经营", "初训", "理论", "04", "category"),
    SamplePerson("样例戊", "000000200009090054", "SAFETY-MGR", "金属冶炼", "初训", "理论", "05", "category"),
    SamplePerson("阿依·样例", "000000199512250064", "GENERAL", None, "初训", "理论", "06", "middle dot in the name", nation="05"),
    SamplePerson("样例䶮", "000000198810080070", "GENERAL", None, "初训", "理论", None, "rare character, no seat"),
    SamplePerson("样例庚", "000000199304170086", "SPECIAL", "3.1 登高架设作业", "初训", "实操·K1–K4", "08",
                 "theory passed more than a year ago", theory_passed_months_ago=13),
    SamplePerson("样例辛", "000000196603050099", "SPECIAL", "4.1 制冷与空调设备运行操作作业", "初训", "理论", "09",
                 "not in this session", in_session=False),
    SamplePerson("样例壬", "00000019870606015X", "GENERAL", None, "初训", "理论", "10", "X as check character"),
    SamplePerson("样例癸", "000000200808010102", "GENERAL", None, "初训", "理论", "11", "age boundary"),
    SamplePerson("样例丑", "000000197503200111", "GENERAL", None, "初训", "理论", "12", "card expired",
                 valid_from=date(2000, 1, 1), valid_to=date(2020, 1, 1)),
    SamplePerson("样例寅", "00000019910312012X", "GENERAL", None, "初训", "理论", "14", "on hold, in the later session", in_session=False,
                 on_hold=True),
    SamplePerson("样例卯", "000000198307180138", "GENERAL", None, "初训", "理论", "15", "expected in another room", in_session=False,
                 other_room=True),
)

BY_NAME: Mapping[str, SamplePerson] = MappingProxyType({person.name: person for person in PEOPLE})


def cards() -> dict[str, Identity]:
    """Every sample person's card by the person's name: what the simulated reader can have laid on it."""
    return {person.name: person.identity() for person in PEOPLE}
