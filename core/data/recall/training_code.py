"""Facts and questions in code that training text alone uses.

See :mod:`.training_wording`.
"""

from __future__ import annotations

from megacontext.core.data.recall.wording import fragments

__all__ = [
    "CODE_ASKS",
    "CODE_FACTS",
    "CODE_QUESTIONS",
    "HANDS_ON",
]

CODE_FACTS = [
    line.replace("\\n", "\n").replace("\\t", "\t")
    for line in fragments(r"""{k}: {v},
{k}: '{v}',
'{k}': '{v}',
'{k}': {v}
("{k}", "{v}"),
('{k}', {v}),
{{"{k}": "{v}"}}
{k} ?= {v}
{k} ||= "{v}"
{k} += "{v}"
{k}("{v}")
{k}.set("{v}")
{k}.value = {v}
{k} = [{v}]
{k} = ({v},)
{k} = {v};  // fixed
{k} = {v}  # default
{k}={v};
{k}="{v}"
{k} "{v}"
{k} '{v}';
{k}\t= {v}
{k} |-> {v}
{k} is {v}
{k} equals {v}
{k} set to {v}
{k} => "{v}",
{k} <- "{v}"
{k} <= {v}
{k}@{v}
{k}#{v}
{k}/{v}
{k} / {v}
{k} -- {v}
{k}--{v}
{k}%{v}
{k} & {v} \\
{k} ... {v}
[{k}]\n{v}
[{k}]: {v}
[{k}]({v})
<{k} value="{v}"/>
<param name="{k}">{v}</param>
<dt>{k}</dt><dd>{v}</dd>
<td>{k}</td><td>{v}</td>
<!-- {k}: {v} -->
/* {k}: {v} */
/* {k} = {v} */
// {k} = {v}
// the {k} is {v}
# {k}: {v}
# {k} = {v}
# use {v} for {k}
-- {k} = {v}
; {k} = {v}
% {k}: {v}
" {k} {v}
-{k}={v}
--{k}="{v}"
-D{k}={v}
-e {k}={v}
ARG {k}={v}
ENV {k} {v}
SET {k} = '{v}';
PRAGMA {k} = {v};
INSERT INTO t VALUES ('{k}', '{v}');
UPDATE t SET v = '{v}' WHERE k = '{k}';
assert {k} == {v}
assert {k} == "{v}"
expect({k}).toBe("{v}");
if {k} == "{v}":
if {k} is {v}:
return {k} or "{v}"
return {v}  # {k}
raise ValueError("{k}: {v}")
print("{k}", "{v}")
log.info("{k}=%s", "{v}")
os.environ["{k}"] = "{v}"
parser.add_argument("--{k}", default="{v}")
field({k}, default={v})
setattr(x, "{k}", {v})
x.{k} = {v}
x["{k}"] = {v}
x[{k}] = {v}
x->{k} = {v};
put("{k}", "{v}");
map.insert("{k}", "{v}");
new {k}("{v}")
class {k}: value = "{v}"
def {k}(x={v}): pass
fn {k}() -> {v}
func {k}() = {v}
lambda {k}: {v}
case {k}: return {v};
when "{k}" then {v}
alias {k}='{v}'
var {k} = "{v}"
val {k} = {v}
int {k} = {v};
char *{k} = "{v}";
static {k}: &str = "{v}";
pub const {k}: u32 = {v};
type {k} = {v}
typedef {v} {k};
import {v} as {k}
from {k} import {v}
use {k}::{v};
{k}::{v}
@{k}({v})
${k} = '{v}';
%{k}% = {v}
\def\{k}{{{v}}}
:param {k}: {v}
@type {k}: {v}
>>> {k}\n{v}
>>> {k}\n'{v}'
$ echo ${k}\n{v}
{k}:\n  {v}
{k}:\n  - {v}
{k} {{\n  {v}\n}}
- {k}: {v}
- {k}={v}
* {k} -> {v}
1. {k} {v}
| {k} | {v} | ok |
+{k} {v}
{v} = {k}
{v} <- {k}
{v}: {k}
{v} // {k}
{v}  # {k}""")
]

# (prompt ending where the answer starts, text behind the answer)
CODE_ASKS: tuple[tuple[str, str], ...] = (
    ("{k}=", "\n"),
    ("{k} is ", ".\n"),
    ("{k} has ", "\n"),
    ("{k} was ", "\n"),
    ("{k} := ", "\n"),
    ("{k} => ", "\n"),
    ('{k}("', '")\n'),
    ("{k}? ", "\n"),
    ("self.{k} == ", "\n"),
    ('x["{k}"] == ', "\n"),
    ("get({k}) -> ", "\n"),
    ("return {k}  # ", "\n"),
    ("/* {k}: ", " */\n"),
    ("<{k}>", "</\n"),
    ("# {k} = ", "\n"),
    ("# {k} -> ", "\n"),
    ("the value of {k} is ", ".\n"),
    ("set {k} to ", "\n"),
    ("if {k} == ", ":\n"),
    ("expect({k}).toBe(", ")\n"),
    ("$ echo ${k}\n", "\n"),
    ("{k}\t", "\n"),
    ("[{k}] ", "\n"),
    ("({k}, ", ")\n"),
    ("{k} / ", "\n"),
    ("where {k} = ", "\n"),
)

CODE_QUESTIONS = fragments("""value of {k}?
{k}?
what does {k} equal?
what does {k} contain?
what does {k} point to?
what does {k} return?
what does {k} stand at?
what is stored in {k}?
what is {k} equal to?
what is {k} in the code?
what was {k} set to?
what was put into {k}?
what will {k} print?
which value has {k}?
which value is in {k}?
which value was given to {k}?
how is {k} set?
how is {k} configured?
to what is {k} bound?
to which value does {k} refer?
look at the code: what is {k}?
find the value of {k}.
give the value of {k}.
say what {k} is.
tell me what {k} holds.
the setting of {k}?
I need {k}.
print {k}
the default of {k}?
name the value in {k}.""")

HANDS_ON = fragments(
    """{k} := {v};{k}={v};const {k} = {v};{k} is {v};{k} <- {v};{k}: {v};{v} -> {k};
assign {v} to {k};copy {v} into {k};{k} takes {v};{k} equals {v};var {k} = {v};my ${k} = {v};
define {k} as {v};{k} points to {v};{k} gets {v};export {k}={v};#define {k} {v};val {k} = {v};
store {v} in {k};{k} => {v};put {v} into {k};{k} refers to {v};{k}, set to {v};alias {k}={v};
# {k} is {v};{k} == {v};move {v} to {k};{k} = {v}  # same;auto {k} = {v}, fixed""",
    ";",
)
