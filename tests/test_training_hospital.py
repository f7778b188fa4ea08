"""training.hospital: an export with names everywhere goes in, cases without any come out."""

import csv
import json
import re

import numpy as np
import pytest
from dicoms import dataset, region, save
from PIL import Image
from test_imaging_deidentify import fan, screen

from imaging.case import read_cases
from imaging.regions import scan_regions
from training.hospital import __main__ as command
from training.hospital.__main__ import main
from training.hospital.export import SIDES, VERSIONS, Pseudonyms
from training.hospital.rows import ExportError, image_names, patient_key, read_rows, studies
from training.hospital.texts import language_of, still_known, without_identity, without_label

SECRETS = ("张晓梅", "李建国", "DOE", "JANE", "Jane", "Doe", "P-0007", "ZY20230001", "13800138000", "2023")
HEADINGS = ["病人ID", "姓名", "检查号", "检查部位", "超声所见", "超声提示", "图像", "报告医师"]
FINDINGS = "患者张晓梅，2023年5月6日检查。甲状腺左叶中部见一低回声结节，大小约12mm×8mm，边界清晰。"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("患者张伟，男，92岁，住院号：ZY123456。", "患者〔姓名〕，男，90+岁，住院号〔编号〕。"),
        ("于2023年5月6日10:30检查，2023-05-06复查。", "于〔日期〕检查，〔日期〕复查。"),
        ("报告医师：李小明 审核医生: 王芳", "报告医师：〔姓名〕 审核医生：〔姓名〕"),
        ("联系电话13812345678，邮件地址a.b@c.cn", "联系电话〔电话〕，邮件地址〔网址〕"),
        (
            "转自北京协和医院，建议上级医院就诊，请临床医生结合。",
            "转自〔医院〕，建议上级医院就诊，请临床医生结合。",
        ),
        (
            "Patient: John Smith, MRN: 0012345, on 12/03/2021, born March 3, 1950.",
            "Patient: [name], MRN [number], on [date], born [date].",
        ),
        ("Reported by Jane Roe. Nodule seen.", "Reported by [name]. Nodule seen."),
        ("Seen by Dr. Roe at St Mary Hospital.", "Seen by [name] at [hospital]."),
        ("Seen by Dr van der Berg today.", "Seen by [name] today."),
        ("dr. wang lili saw her", "[name] saw her"),
        ("Mr. zhang has pain, dr. wang reports.", "[name] has pain, [name] reports."),
        ("Prof. Dr. O'Neill and Dr J. A. Smith agree.", "[name] and [name] agree."),
        ("name: jane roe, 60 years", "name: [name], 60 years"),
        ("审核医师 李四光", "审核医师〔姓名〕"),
        ("报告医师李四光、王芳。", "报告医师〔姓名〕。"),
        ("aged 93 years", "aged 90+ years"),
        ("93 y old, 94-year-old, 95 yrs, 96F", "90+ y old, 90+-year-old, 90+ yrs, 90+F"),
        ("age: 94; gestational age 93 days", "age: 90+; gestational age 93 days"),
        ("患者九十三岁，年龄：95", "患者90+岁，年龄：90+"),
        ("Seen on May 5, 2020, on 6 June and on May 7.", "Seen on [date], on [date] and on [date]."),
    ],
)
def test_names_numbers_and_dates_are_taken_out(text, expected):
    assert without_identity(text, (), language_of(text)) == expected


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (" Impression: No nodule.", "No nodule."),
        ("超声提示：未见异常", "未见异常"),
        ("超声所见 : 肝脏", "肝脏"),
        ("Liver: normal. Impression: none", "Liver: normal. Impression: none"),
        ("诊断不明", "诊断不明"),
    ],
)
def test_a_heading_inside_the_cell_is_left_out(cell, text):
    assert without_label(cell) == text


@pytest.mark.parametrize(
    "text",
    [
        "左侧乳腺12点钟方向见低回声结节，约1.2×0.8×0.6cm，距乳头2.5-3.0cm，BI-RADS 4A类。",
        "甲状腺右叶TI-RADS 3类，建议3月后复查，患者常规检查未见异常。",
        "主动脉窦部34mm，EF 70%，E=70cm/s，E/A=1.17，左心室收缩功能(Teich法)正常。",
        "左肾大小11.0×5.2×4.8cm，RI 0.65，PSV 80.5cm/s。",
        "A 12 x 8 mm nodule at the 12:30 position, 3-5 mm from the wall. ACR TI-RADS 4, EF 65 %.",
        "Follow-up in 6 months. The left lobe may be enlarged.",
        "May 5 mm nodule. The segment 5 may be spared. March 12 x 8 mm.",
        "Mild MR and TR, the doctor in charge agrees, 120 ms after. Mild mr jet. PSV 93 cm/s, EF 95 %.",
        "请临床医生结合，医生 高度怀疑恶性。",
    ],
)
def test_findings_stay_as_they_are(text):
    assert without_identity(text, (), language_of(text)) == text


@pytest.mark.parametrize(
    "known, text, expected",
    [
        ("张晓梅", "张 晓梅的甲状腺正常。", "〔姓名或编号〕的甲状腺正常。"),
        (
            "DOE^JANE",
            "左叶正常，Jane Doe，DOE JANE。",
            "左叶正常，〔姓名或编号〕，〔姓名或编号〕。",
        ),
        ("A-77", "编码A-77甲。", "编码〔姓名或编号〕甲。"),
        (
            "Roe^Patty 007",
            "by Roe^Patty 007 or Patty Roe",
            "by 〔姓名或编号〕 or 〔姓名或编号〕",
        ),
        ("SMALL", "A small cyst. Dr Small。壁", "A small cyst. Dr 〔姓名或编号〕。壁"),
        ("Liver Center", "Liver: normal. liver center。壁", "Liver: normal. 〔姓名或编号〕。壁"),
        ("3", "第3床", "第3床"),
        ("WALL^ANN", "The wall is smooth。壁", "The wall is smooth。壁"),
        ("Zhang^Wei", "wei zhang reports pain", "〔姓名或编号〕 reports pain"),
        ("Zhang^Wei^Min", "by min, zhang; weizhang。", "by 〔姓名或编号〕; 〔姓名或编号〕。"),
        ("ZHANG WEI", "wei zhang", "〔姓名或编号〕"),
        ("Zhang^Wei=张^伟", "张伟, zhang wei", "〔姓名或编号〕, 〔姓名或编号〕"),
    ],
)
def test_what_the_export_knows_is_taken_out(known, text, expected):
    cleaned = without_identity(text, [known], "zh")
    assert cleaned == expected
    assert not still_known(cleaned, [known])


def test_a_known_value_that_is_left_is_noticed():
    assert still_known("Zhang  Xiaomei", ["ZHANG^XIAOMEI"])
    assert still_known("xiaomei zhang reports pain", ["ZHANG^XIAOMEI"])
    assert still_known("张晓梅", ["ZHANG^XIAOMEI=张^晓梅"])
    assert not still_known("a normal liver", ["ZHANG^XIAOMEI", "ab"])


@pytest.mark.parametrize(
    "one, other", [("007", "7"), ("7.0", "7"), (" ab12", "AB12"), ("Ｐ１", "p1"), ("0", "00")]
)
def test_one_patient_is_never_two(one, other):
    assert patient_key(one) == patient_key(other) != ""


@pytest.mark.parametrize(
    "cell, names",
    [
        ("a.png;b.png", ["a.png", "b.png"]),
        ("1.dcm，2.dcm、3.dcm", ["1.dcm", "2.dcm", "3.dcm"]),
        ('["a b.png", "c.png"]', ["a b.png", "c.png"]),
        ("[a].png", ["[a].png"]),
        ("", []),
    ],
)
def test_image_names(cell, names):
    assert image_names(cell) == names


def test_the_side_follows_from_the_patient_alone():
    names = [f"p{i}" for i in range(3000)]
    one, other = Pseudonyms(b"k" * 16), Pseudonyms(b"j" * 16)
    sides = [one.side(name) for name in names]
    assert [one.side(name) for name in names] == sides != [other.side(name) for name in names]
    for side, share in zip(SIDES, (0.8, 0.1, 0.1), strict=True):
        assert sides.count(side) / len(sides) == pytest.approx(share, abs=0.03)
    assert {one.side(name, (0, 1, 1)) for name in names} == {"val", "test"}


def export(folder, patients=12, encoding="utf-8"):
    """A hospital's export: names in headers, file names, folders, columns and texts, and burned in."""
    images, rows = folder / "images", []
    for number in range(patients):
        inner = images / f"张晓梅_{number}"
        inner.mkdir(parents=True)
        picture = screen(number)[0]
        tags = dict(PatientName="DOE^JANE", PatientID=f"P-{number:04d}", StudyDate="20230506")
        header = dataset(picture, regions=[region(200, 100, 839, 659)], **tags)
        save(header, inner / f"DOE_JANE_{number}.dcm")
        Image.fromarray(fan(224, 224, number)[0]).save(inner / f"still{number}.png")
        names = f"DOE_JANE_{number}.dcm;still{number}.png"
        findings = FINDINGS + (" Jane Doe." if number % 2 else "")
        rows.append(
            [
                f"P-{number:04d}",
                "张晓梅",
                f"ZY2023{number:04d}",
                "甲状腺",
                findings,
                "左叶结节，TI-RADS 3类。",
            ]
        )
        rows[-1] += [names, "李建国"]
    path = folder / "reports.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([HEADINGS, *rows])
    return images, path


def run(folder, *more, out="out"):
    images, reports = folder / "images", folder / "reports.csv"
    return main([*map(str, (images, reports, folder / out)), "--key", str(folder / "key"), "--quiet", *more])


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    export(folder, encoding="gb18030")
    assert run(folder, "--split", "2", "1", "1") == 0
    return folder / "out"


def test_nothing_that_is_written_names_anybody(converted):
    files = [path for path in converted.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".png"]) == 24
    drawn = re.compile("[0-9a-f]{16}")  # names made by chance may hold any four digits
    for path in files:
        for secret in SECRETS:
            assert secret not in drawn.sub("", path.relative_to(converted).as_posix())
            for encoding in ("utf-8", "gb18030"):
                said = drawn.sub("", path.read_bytes().decode("latin-1"))
                assert secret.encode(encoding).decode("latin-1") not in said or path.suffix == ".png"
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert not image.info


def test_nothing_burned_in_beside_the_scan_is_left(converted):
    picture, tissue, ink = screen()
    beside = (ink & ~tissue)[100:660, 200:840]
    cut = [np.array(Image.open(path)) for path in converted.glob("images/*-0.png")]
    assert len(cut) == 12 and beside.sum() > 100
    assert all(pixels.shape == (560, 640) and not pixels[beside].any() for pixels in cut)


def test_no_patient_is_on_two_sides(converted):
    for version in VERSIONS:
        sides = [read_cases(converted / version / f"{side}.jsonl") for side in SIDES]
        patients = [{case.patient for case in cases} for cases in sides]
        assert len(set.union(*patients)) == sum(map(len, patients)) == 12
        assert all(patients)


def test_the_two_versions_differ_in_who_names_the_site(converted):
    named, unnamed = (
        {case.id: case for side in SIDES for case in read_cases(converted / version / f"{side}.jsonl")}
        for version in VERSIONS
    )
    assert named.keys() == unnamed.keys() and len(named) == 24
    for name, case in named.items():
        other = unnamed[name]
        assert case.images == other.images and all(path.is_file() for path in case.images)
        assert "甲状腺" in case.question and "甲状腺" not in other.question
        assert "甲状腺" in other.answer
        assert case.answer in other.answer
        assert (case.organ, case.language, len(case.images)) == ("thyroid", "zh", 2)
        assert case.extra["mm_per_pixel"] == [[0.1, 0.1], None]
    report = next(case for case in named.values() if case.task == "report")
    assert report.answer.startswith(
        "超声所见：患者〔姓名或编号〕，〔日期〕检查。甲状腺左叶中部见一低回声结节"
    )


def test_the_same_command_goes_on_after_a_crash(tmp_path, monkeypatch, capsys):
    from training.hospital import export as module

    export(tmp_path, patients=4)
    assert run(tmp_path, out="whole") == 0
    write, written = module.write_png, []

    def full(frame, path):
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device", str(path))
        write(frame, path)

    monkeypatch.setattr(module, "write_png", full)
    assert run(tmp_path) == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "out/named/train.jsonl").exists()
    with (tmp_path / "out/journal.jsonl").open("a") as file:
        file.write('{"study": "cut sho')
    assert run(tmp_path) == 0
    assert len(written) == 5 + 4  # two studies were done before; the other two have two images each
    for version in VERSIONS:
        for side in SIDES:
            name = f"{version}/{side}.jsonl"
            assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_other_settings_do_not_go_on(tmp_path, capsys):
    export(tmp_path, patients=1)
    assert run(tmp_path) == 0
    assert run(tmp_path, "--max-frames", "3") == 2
    assert "choose another OUT" in capsys.readouterr().err


def skipped(folder):
    with (folder / "out/skipped.csv").open(encoding="utf-8") as file:
        return [(row["where"], row["reason"]) for row in csv.DictReader(file)]


def jsonl(folder, rows):
    (folder / "images").mkdir(exist_ok=True)
    lines = [json.dumps({"findings": "Normal liver.", "patient_id": "1", **row}) for row in rows]
    (folder / "reports.csv").write_text("")
    path = folder / "reports.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "row, where, reason",
    [
        ({"images": "no.png"}, "line 1", "missing image (number 1 of 1)"),
        ({"images": "no.png"}, "line 1", "no usable image"),
        ({"images": "bad.png"}, "image", "unreadable: not_an_image"),
        ({"images": "grey.png"}, "image", "no scan sector found"),
        ({"images": "good.png", "findings": ""}, "line 1", "no report"),
        ({"images": "good.png", "patient_id": ""}, "line 1", "no patient id"),
        ({"images": "twice.png"}, "line 1", "several images have this name"),
        ({"images": ""}, "line 1", "no usable image"),
        ({"images": "bad.png"}, "image", "no report"),
    ],
)
def test_what_is_left_out_is_said(tmp_path, row, where, reason):
    path = jsonl(tmp_path, [row])
    scan = Image.fromarray(fan(224, 224)[0])
    for name in ("good.png", "a/twice.png", "b/twice.png"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        scan.save(tmp_path / "images" / name)
    Image.fromarray(np.full((600, 800), 90, np.uint8)).save(tmp_path / "images/grey.png")
    (tmp_path / "images/bad.png").write_text("no picture")
    out = tmp_path / "out"
    assert main([str(tmp_path / "images"), str(path), str(out), "--key", str(tmp_path / "k"), "--quiet"]) == 0
    assert any(place.startswith(where) and why.startswith(reason) for place, why in skipped(tmp_path))
    assert not any(".png" in place + why for place, why in skipped(tmp_path))
    assert all(not read_cases(out / "named" / f"{side}.jsonl") for side in SIDES)


def test_what_is_kept_but_cannot_be_checked_is_counted_and_listed(tmp_path, capsys):
    path = jsonl(tmp_path, [{"images": "small.png; grey.png; screen.png"}])
    Image.fromarray(fan(224, 224)[0]).save(tmp_path / "images/small.png")
    Image.fromarray(np.full((600, 800), 90, np.uint8)).save(tmp_path / "images/grey.png")
    Image.fromarray(screen()[0]).save(tmp_path / "images/screen.png")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "images"), str(path), str(out), "--key", str(tmp_path / "k"), "--quiet"]
    for _ in range(2):  # and the journal keeps it
        assert main([*arguments, "--keep-whole"]) == 0
        assert "2 images were kept, but not checked" in capsys.readouterr().out
        with (out / "unchecked.csv").open(encoding="utf-8") as file:
            rows = [(row["where"], row["reason"].split(":")[0]) for row in csv.DictReader(file)]
        small = "too small to tell a screen from a scan"
        assert [reason for _, reason in rows] == [small, "a whole screen (--keep-whole)"]
        assert all((out / place).is_file() for place, _ in rows)


def test_other_rules_do_not_go_on(tmp_path, monkeypatch, capsys):
    export(tmp_path, patients=1)
    assert run(tmp_path) == 0
    (tmp_path / "rules.yaml").write_bytes(command.RULES.read_bytes() + b"# mended")
    monkeypatch.setattr(command, "RULES", tmp_path / "rules.yaml")
    assert run(tmp_path) == 2
    assert "choose another OUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    "site, findings, asked, answered",
    [
        ("heart", "左心室不大。", "心脏超声", "检查部位：心脏"),
        ("肝脏", "The size is normal.", "the liver", "Site: liver"),
        ("Gynaecology", "子宫大小正常。", "妇科超声", "检查部位：妇科"),
        ("妇科", "The uterus is normal.", "uterus and adnexa", "Site: uterus and adnexa"),
        ("foot", "未见异常。", "“foot”超声", "检查部位：“foot”"),
        ("Left Breast", "The size is normal.", "the Left Breast", "Site: Left Breast"),
    ],
)
def test_the_site_is_named_in_the_report_s_language(tmp_path, site, findings, asked, answered):
    path = jsonl(tmp_path, [{"images": "a.png", "site": site, "findings": findings}])
    Image.fromarray(fan(224, 224)[0]).save(tmp_path / "images/a.png")
    arguments = [str(tmp_path / "images"), str(path), str(tmp_path / "out"), "--key", str(tmp_path / "k")]
    assert main([*arguments, "--quiet", "--split", "1", "0", "0"]) == 0
    named, unnamed = (read_cases(tmp_path / f"out/{version}/train.jsonl") for version in VERSIONS)
    assert asked in named[0].question and unnamed[0].answer.startswith(answered)
    assert named[0].extra["site"] == site


def test_images_are_found_in_the_study_s_folder_and_rows_of_a_study_belong_together(tmp_path):
    rows = [{"study_id": "s1"}, {"study_id": "s2", "images": "1.png"}, {"study_id": "s2", "images": "2.png"}]
    path = jsonl(tmp_path, rows)
    for name in ("s1/a.png", "s1/b.png", "s2/1.png", "s2/2.png", "s3/1.png"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(fan(224, 224)[0]).save(tmp_path / "images" / name)
    arguments = [str(tmp_path / "images"), str(path), str(tmp_path / "out"), "--key", str(tmp_path / "k")]
    assert main([*arguments, "--quiet", "--split", "1", "0", "0"]) == 0
    cases = read_cases(tmp_path / "out/named/train.jsonl")
    assert [len(case.images) for case in cases] == [2, 2]
    assert len(skipped(tmp_path)) == 1  # s3/1.png


def test_two_reports_for_one_study_are_not_chosen_between(tmp_path):
    rows = [{"study": "s", "images": "1.png"}, {"study": "s", "images": "1.png", "findings": "Cyst."}]
    assert [len(study.rows) for study in studies(read_rows(jsonl(tmp_path, rows)))] == [2]


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("", "reports.csv holds no rows"),
        ("a,b\n1,2\n", "no column for patient; name it with --column patient=HEADING (it has: a, b)"),
        ("病人ID,b\n1,2\n", "no column for findings"),
        ("病人ID,所见\n1,2\n", "no column for images"),
    ],
)
def test_an_export_that_cannot_be_read_is_one_sentence(tmp_path, content, complaint):
    (tmp_path / "reports.csv").write_text(content)
    with pytest.raises(ExportError) as caught:
        read_rows(tmp_path / "reports.csv")
    assert complaint in str(caught.value)


def test_the_example_in_the_help_can_be_read(tmp_path):
    lines = [line.strip() for line in command.__doc__.splitlines() if line.startswith("    ")]
    (tmp_path / "reports.csv").write_text("\n".join(lines), encoding="utf-8")
    rows = read_rows(tmp_path / "reports.csv")
    assert [row.values["site"] for row in rows] == ["thyroid", "肝脏"]
    assert all(all(row.values.values()) and len(image_names(row.values["images"])) == 2 for row in rows)


@pytest.mark.parametrize(
    "more, complaint",
    [
        (["--column", "findings"], "--column findings: write one of"),
        (["--column", "findings=nothing"], "has no column 'nothing'"),
        (["--split", "0", "0", "0"], "--split needs three shares"),
        (["--max-frames", "0"], "--max-frames must be 1 or more"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, capsys, more, complaint):
    export(tmp_path, patients=1)
    assert run(tmp_path, *more) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1


def test_the_key_is_made_once_and_kept_apart(tmp_path, capsys):
    export(tmp_path, patients=1)
    assert run(tmp_path, "--key", str(tmp_path / "out/key")) == 2
    assert "keep the key apart" in capsys.readouterr().err
    assert run(tmp_path) == 0
    key = (tmp_path / "key").read_bytes()
    assert run(tmp_path, out="again") == 0 and (tmp_path / "key").read_bytes() == key
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    (tmp_path / "key").write_text("short")
    assert run(tmp_path, out="third") == 2


def test_a_failure_tells_its_kind_and_not_its_text(tmp_path, monkeypatch, capsys):
    from training.hospital import export as module

    def fail(*_):
        raise RuntimeError("张晓梅 ZY20230001")

    export(tmp_path, patients=1)
    monkeypatch.setattr(module, "language_of", fail)
    assert run(tmp_path) == 0
    assert ("line 2", "failed: RuntimeError") in skipped(tmp_path)
    said = capsys.readouterr()
    assert "张晓梅" not in said.out + said.err + (tmp_path / "out/journal.jsonl").read_text()


def test_the_simulator_s_export_with_an_invented_patient(tmp_path):
    from pydicom import dcmread

    from simulator.__main__ import main as simulate

    order = [
        "--cases",
        "3",
        "--seed",
        "2",
        "--task",
        "report",
        "--format",
        "dicom",
        "--patient-names",
        "--quiet",
    ]
    assert simulate([str(tmp_path / "sim"), *order]) == 0
    rows, secrets = [], set()
    for case in read_cases(tmp_path / "sim/cases.jsonl"):
        header = dcmread(case.images[0], stop_before_pixels=True)
        name, number = str(header.PatientName), str(header.PatientID)
        secrets |= {name.encode(), number.encode()}
        text = f"{case.answer} {name}, {number}."
        images = [image.name for image in case.images]
        rows.append({"patient id": number, "findings": text, "site": case.organ, "images": images})
    reports = tmp_path / "reports.jsonl"
    reports.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        str(tmp_path / "sim/images"),
        str(reports),
        str(tmp_path / "out"),
        "--key",
        str(tmp_path / "k"),
    ]
    assert main([*arguments, "--quiet", "--split", "1", "0", "0"]) == 0
    cases = read_cases(tmp_path / "out/named/train.jsonl")
    assert len(cases) == 3 and skipped(tmp_path) == []
    for path in filter(lambda path: path.is_file(), (tmp_path / "out").rglob("*")):
        assert not [secret for secret in secrets if secret in path.read_bytes()]
    for case, row in zip(cases, rows, strict=True):
        for clean, image in zip(case.images, row["images"], strict=True):
            header = dcmread(tmp_path / "sim/images" / image)
            (_, top, _, bottom), _ = scan_regions(header)
            with Image.open(clean) as picture:
                assert picture.height == bottom - top < header.Rows
