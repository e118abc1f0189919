"""What Japanese texts of the package may not hold: words that are not the field's, another style, wrong widths."""

import re

# Not the field's standard word, and that word.
TERMS = {
    "チャネル": "チャンネル",
    "パラメータ(?!ー)": "パラメーター",
    "マックスプーリング|最大値プーリング": "最大プーリング",
    "グローバル": "大域",
    "連結": "結合",
    "融合": "統合",
    "ショートカット": "スキップ接続",
    "[Dd]epthwise|デプスワイズ": "深さ方向",
    "密ブロック|デンスブロック": "Denseブロック",
    "下位層": "後続の層",
    "線形的": "線形",
    "勾配安定": "勾配の安定性",
    "特徴再利用": "特徴の再利用",
    "バッチノ": "バッチ正規化",
    "画素": "ピクセル",
    "(?<!特徴)(?<!ヒート)(?<!活性化)(?<!スコアの)マップ(?!ル)": "特徴マップ",
    "演算量": "計算量",
    "線形層": "全結合層",
    "掛け算": "乗算",
    "らせん": "渦巻き",
    "ランク": "階数",
    "計算機": "マシン",
    "本実装": "本書のコード",
    "分類ヘッド|線形の?ヘッド": "分類部",
    "学習(?:誤差|損失|画像)": "訓練誤差、訓練損失、訓練画像",
    "参考文献": "出典",
}
_JAPANESE = "[ぁ-んァ-ヶ一-龠ー]"
STYLE = {
    r"です(?=[。、]|$)|ます(?=[。、]|$)|ません|ください": "である style",
    "[（）：；～！？０-９Ａ-Ｚａ-ｚ]": "half-width signs, and 〜",
    # "He 2015 図5" and "表4" keep the space of a reference.
    rf"{_JAPANESE} [A-Za-z0-9{{(]|[A-Za-z0-9}}%)] (?!図|表){_JAPANESE}": "no space between Japanese and Latin letters",
    "。 |、 ": "no space after a full-width sign",
    "[二三四五六七八九]つ(?!に一つ)|(?<![つにの])一つ(?!一つ|ずつ|の結果)": "digits: 1つ, 2つ",
    "×[0-9][0-9]つ": "1つの3×3, not 3×31つ",
    "(?:枚|バイト|MAC|層|位置|グループ|ピクセル|チャンネル|秒)あたり": "当たり",
    "(?<!受け)持(?:つ|た|って|っている)": "もつ",
    "あいだ": "間",
    "私たち|我々|われわれ|あなた|彼ら": "no pronoun",
    "することが(?:でき|可能)": "できる",
    "という事実|(?:^|。)それ(?:ら)?は": "not as in English",
    "[—―─]": "no dash",
}


def faults(text: str) -> list[str]:
    """What is wrong in a text, and what would be right."""
    return [
        f"{found[0]!r} in {text!r}: {right}"
        for wrong, right in {**TERMS, **STYLE}.items()
        for found in re.finditer(wrong, text)
    ]


def is_english(text: str) -> bool:
    """Whether a text without its {values} has English words and nothing Japanese."""
    without = re.sub(r"\{\w*\}", " ", text)
    return bool(re.search("[A-Za-z]{2,}", without)) and not re.search(_JAPANESE, without)
