"""The lessons of `ringlet lesson`: texts, exercises, and checks that say what is wrong with an
answer.

May import testing/ and everything below it, runtime, comm and nn. Read course.py (which lessons
there are, and a student's folder), then judge.py (how an answer is checked) and answers.py (in
which process). Each folder is one lesson: lesson.md, exercise.py to be completed, and check.py,
whose `check(answer)` yields what is wrong and whose HINTS lead to the answer. words.py has what
checks say in the same words, wrong.py takes sums of ranks apart to say whose part is missing, and
ranks.py runs an answer on ranks that are threads.
"""
