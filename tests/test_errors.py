"""The suggestions in errors."""

from jaxcnn.errors import suggest


def test_similar_names_are_suggested():
    assert suggest("resnet81", ["vgg11", "resnet18"]) == "did you mean 'resnet18'?"


def test_few_names_are_listed_in_full():
    assert suggest("x", ["one", "two"]) == "known: one, two."
    assert suggest("x", []) == "known: none."


def test_only_the_nearest_of_many_names_are_listed():
    names = [f"name{number}" for number in range(2000)]
    sentence = suggest("zz9", names)
    assert sentence.startswith("the nearest of 2,000 known names are name9, ")
    assert sentence.count(",") <= 6
