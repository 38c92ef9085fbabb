"""What is said in wren's world, as text: see `dialogues.write_dialogue`.

words.py, talk.py          word lists; greetings, leads, small talk, refusals
countries.py, elements.py  phrasings of questions and facts
facts.py                   real, contradicted and invented facts of the two
tools.py, personal.py      live answers; the user's own facts
sentences.py, lines.py     single sentences for the speech corpus
scenes.py, dialogues.py    exchanges, and whole dialogues made of them
"""
