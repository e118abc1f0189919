"""The tables of README.md and docs/ are those that their JSON gives: none is out of date, none edited by hand."""

# Why the code is as it is, for those who change it: no page shows these.
NOT_SHOWN = {"mutation", "head", "json_body", "multipart_parser", "quantisers", "versions"}


def test_tables_are_made_from_their_results(script):
    common = script("_common")
    shown = {}
    for page in common.pages():
        shown |= common.tables(page.read_text(encoding="utf-8"))
    for name, text in shown.items():
        render = script(name).render
        assert text == (render() if name == "headlines" else render(common.read(name))), f"bench/{name}.py --table"
    results = {path.stem for path in common.RESULTS.glob("*.json")}
    assert set(shown) == (results - NOT_SHOWN) | {"headlines"}


def test_a_bound_on_a_gpu_is_of_the_images_that_were_timed(script):
    import vertebra

    gpu = script("gpu")
    row = next(row for row in script("_common").read("gpu")["forward"] if row["network"] == "efficientnet_v2_s")
    anatomy = vertebra.anatomy(row["network"], gpu.SIZE, batch_size=row["batch"], dtype=row["dtype"])
    # Its weights are for 384 × 384.
    assert gpu.SIZE == 224 and row["bound"] == round(anatomy.latency(gpu.DEVICE).total_ms, 4)


def test_a_table_is_put_into_every_page_that_has_its_markers(script, monkeypatch, tmp_path):
    common = script("_common")
    (tmp_path / "docs").mkdir()
    marked = "<!-- bench:{0} -->\n{1}\n<!-- /bench:{0} -->\n\n"
    before = marked.format("folder", "two\n\nlines") + marked.format("latency", "kept")
    after = marked.format("folder", "new \\1") + marked.format("latency", "kept")
    for name in ("README.md", "docs/a.md"):
        (tmp_path / name).write_text(before)
    (tmp_path / "docs/b.md").write_text("no table\n")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    common.publish("folder", "new \\1")
    for name in ("README.md", "docs/a.md"):
        assert (tmp_path / name).read_text() == after
    assert (tmp_path / "docs/b.md").read_text() == "no table\n"


def test_what_comes_out_otherwise_on_a_gpu_is_named(script):
    def results(**verdicts):
        return {name: {"number": name[1:], "verdict": verdict} for name, verdict in verdicts.items()}

    others = script("lab_gpu").others
    on_cpu = results(a1="holds", a2="holds", a3="holds")
    assert others(on_cpu, on_cpu, ["a1"]) == "The other 2 have the same verdict on both."
    on_gpu = results(a1="does not hold", a2="does not hold", a3="holds")
    told = "Of the other 2, 1 have the same verdict on both; not 2 (holds on the CPU, does not hold on the GPU)."
    assert others(on_cpu, on_gpu, ["a1"]) == told
