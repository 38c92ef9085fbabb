"""The patterns of the user's own facts, as text.

A head line gives the relation, the slot that holds the answer, and what is asked for as a noun
phrase; `?` lines are questions, `!` lines the facts that answer them.
"""

from __future__ import annotations

PATTERNS = """
password (secret): the [wifi|garage|kitchen|office] password
? What is the password [again]?
? Which password do I need?
! The password is {secret}.
! It is {secret}, that is the password.
pet (name): the name of my {animal}
? What is my {animal} called?
? What did we name the {animal}?
! Your {animal} is called {name}.
! The {animal}'s name is {name}.
! {name} is the name of your {animal}.
birthday (date): {first}'s birthday
? When is {first}'s birthday?
? When was {first} born?
! {first}'s birthday is on {date}.
! {first} was born on {date}.
whereabouts (place): the place where I put my {object}
? Where is my {object}?
? Where did I put the {object}?
? Where can I find the {object}?
! Your {object} is in the {place}.
! The {object} is in the {place}, under the {other}.
! You left the {object} in the {place}.
price (price): the price of the {object}
? How much is the {object}?
? How much does the {adjective} {object} cost?
? What do I pay for the {object}?
! The {object} costs {price}.
! It costs {price}.
! The price of the {object} is {price}.
opening (time): the opening time of the {place}
? When does the {place} open?
? What time does the {place} open?
! The {place} opens at {time}.
! On {day} the {place} opens at {time}.
closing (time): the closing time of the {place}
? When does the {place} close?
? How long is the {place} open?
! The {place} closes at {time}.
! The {place} is open until {time}.
charge (full): the name of the person in charge of the {place}
? Who is in charge of the {place}?
? Who runs the {place}?
! {full} is in charge of the {place}.
! The {place} is run by {full}.
meeting (day): the time of the meeting with {person}
? When is the meeting with {person}?
? When do I meet {person}?
? What day is my meeting with {person}?
! The meeting with {person} is on {day} at {time}.
! You meet {person} on {day} at {time}.
! You see {person} at {time} on {day}.
room (number): the room of {person}
? Which room is {person} in?
? Where does {person} work?
! {person} is in room {number}.
! {person} works in room {number}.
extension (digits): the phone number of {person}
? What is {person}'s phone number?
? How can I call {person}?
! {person}'s number is {digits}.
! You reach {person} under {digits}.
platform (small): the platform of the train to {town}
? Which platform does the train to {town} leave from?
? Where does the train to {town} leave?
! The train to {town} leaves from platform {small}.
! Platform {small} is the one for {town}.
departure (time): the departure of the bus to {town}
? When does the bus to {town} leave?
? When is the next bus to {town}?
! The bus to {town} leaves at {time}.
! The next bus to {town} is at {time}.
height (large): the height of Mount {town}
? How high is Mount {town}?
? How tall is Mount {town}?
! Mount {town} is {large} meters high.
! Mount {town} rises {large} meters.
length (large): the length of the river {town}
? How long is the river {town}?
! The river {town} is {large} kilometers long.
! It is {large} kilometers long.
founder (full): the name of the founder of {town}
? Who founded {town}?
? Who built {town}?
! {town} was founded by {full}.
! {full} founded {town}.
founded (year): the year when {town} was founded
? When was {town} founded?
? How old is {town}?
! {town} was founded in {year}.
! {town} has been there since {year}.
author (full): the name of the author of {title}
? Who wrote {title}?
? Who is {title} by?
! {title} was written by {full}.
! {full} wrote {title} in {year}.
inventor (full): the name of the inventor of the {adjective} {object}
? Who invented the {adjective} {object}?
! The {adjective} {object} was invented by {full}.
! {full} invented the {adjective} {object}.
thing (thing): the meaning of {thing}
? What is {thing}?
? What does {thing} mean?
? What is a {thing}?
! {thing} is a {adjective} {object} made of {material}.
! A {thing} is a {adjective} {animal} from {town}.
! {thing} is a kind of {food} with {food_two}.
flag (colour): the colour of the flag of {town}
? What colour is the flag of {town}?
? What does the flag of {town} look like?
! The flag of {town} is {colour} and {colour_two}.
! {town} has a {colour} flag with a {colour_two} {animal}.
recipe (foods): the recipe for {thing} soup
? What goes into {thing} soup?
? What do I need for {thing} soup?
! {thing} soup is made of {foods}.
! For {thing} soup you need {foods}.
job (role): the job of {person}
? What does {person} do?
? What is {person}'s job?
? Who is {person}?
! {person} is a {role} in {town}.
! {person} works as a {role}.
home (town): the home town of {person}
? Where does {person} live?
? Where is {person} from?
! {person} lives in {town}.
! {person} comes from {town}.
favourite (food): the favourite food of {person}
? What does {person} like to eat?
? What is {person}'s favourite food?
! {person} likes {food} with {food_two}.
! {person}'s favourite food is {food}.
deadline (date): the deadline of the {thing} project
? When is the {thing} project due?
? When do we have to finish {thing}?
! The {thing} project is due on {date}.
! {thing} must be finished by {day}, {date}.
ruler (full): the name of the ruler of {town}
? Who rules {town}?
? Who is the king of {town}?
! {full} rules {town}.
! The king of {town} is {full}.
capital (city): the capital of {town}
? What is the capital of {town}?
? Which city is the capital of {town}?
! The capital of {town} is {city}.
! {city} is the capital of {town}.
! {city}.
currency (coin): the currency of {town}
? What is the currency of {town}?
? What money do they use in {town}?
! The currency of {town} is the {coin}.
! People in {town} pay with the {coin}.
language (tongue): the language of {town}
? What do they speak in {town}?
? Which language do they speak in {town}?
! People in {town} speak {tongue}.
! The main language of {town} is {tongue}.
population (large): the population of {town}
? How many people live in {town}?
? What is the population of {town}?
! About {large} people live in {town}.
! {town} has {large} inhabitants.
element (thing): the symbol of {thing}
? What is the symbol of {thing}?
? What is the atomic number of {thing}?
! The symbol of {thing} is {letters}.
! The atomic number of {thing} is {number}.
! {thing} is element number {number}.
pass (place_two): the way to the {place}
? How do I get to the {place}?
? Where is the {place}?
! The {place} is behind the {place_two}.
! Go past the {place_two}, the {place} is on the left.
! The {place} is next to the {adjective} {place_two}.
size (number): the size of the {object}
? How big is the {object}?
? How heavy is the {object}?
! The {object} is {number} centimeters long.
! The {object} weighs {number} grams.
owner (person): the name of the owner of the {adjective} {object}
? Whose {object} is this?
? Who owns the {adjective} {object}?
! The {adjective} {object} belongs to {person}.
! It is {person}'s {object}.
winner (full): the name of the winner of the {town} race
? Who won the {town} race?
? Who was first in the {town} race?
! {full} won the {town} race.
! The {town} race was won by {full} in {year}.
"""
