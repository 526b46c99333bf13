//! The state of a block while it is read: reading a statement is carrying it out on symbols.

use std::collections::HashMap;
use std::rc::Rc;

use super::limits::MAX_CALLS;
use super::refusal::{Refusal, RefusalReason};
use super::value::{Fault, Value};
use crate::call::{ImageSource, Step, ToolCall};
use crate::tool::{Axis, Tool};

/// The functions on offer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Tool(Tool),
    Display,
    Print,
    List,
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "display" => Some(Function::Display),
            "print" => Some(Function::Print),
            "list" => Some(Function::List),
            _ => name.parse().ok().map(Function::Tool),
        }
    }
}

/// The state of the program while it is read: reading a statement is carrying it out on symbols.
pub(super) struct Program<'a> {
    /// Variables in the order of their first assignment; the bound ones come first.
    variables: Vec<Value>,
    places: HashMap<&'a str, usize>,
    bound: usize,
    steps: Vec<Step>,
    /// The argument of the last `display`.
    displayed: Option<Value>,
    /// What the last statement that is a tool call made.
    pub(super) last_focus: Option<Focus>,
    pub(super) statements: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Focus {
    Variable(usize),
    Result(ImageSource),
}

impl<'a> Program<'a> {
    pub(super) fn new() -> Self {
        let mut program = Self {
            variables: Vec::new(),
            places: HashMap::new(),
            bound: 0,
            steps: Vec::new(),
            displayed: None,
            last_focus: None,
            statements: 0,
        };
        program.assign("image_1", Value::Image(ImageSource::Original));
        for axis in Axis::ALL {
            program.assign(axis.boxes_variable(), Value::Boxes(axis));
        }
        program.bound = program.variables.len();
        program
    }

    pub(super) fn assign(&mut self, name: &'a str, value: Value) -> usize {
        match self.places.get(name) {
            Some(&place) => {
                self.variables[place] = value;
                place
            }
            None => {
                self.places.insert(name, self.variables.len());
                self.variables.push(value);
                self.variables.len() - 1
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.places.get(name).map(|&place| &self.variables[place])
    }

    pub(super) fn call(
        &mut self,
        function: Function,
        positional: Vec<Value>,
        keywords: Vec<(&'a str, Value)>,
    ) -> Result<Value, Fault> {
        match function {
            Function::Print => Ok(Value::Constant),
            Function::Display => {
                let [image] = bind("display", ["image"], positional, keywords)?;
                self.displayed = Some(image);
                Ok(Value::Constant)
            }
            Function::List => {
                if positional.is_empty() && keywords.is_empty() {
                    return Ok(Value::List(Rc::default()));
                }
                // `list` takes no keyword, and no word can be spelt like this one.
                let [items] = bind("list", [""], positional, keywords)?;
                items.list()
            }
            Function::Tool(tool) => {
                if self.steps.len() == MAX_CALLS {
                    return Err((
                        RefusalReason::TooLong,
                        format!("more than {MAX_CALLS} calls"),
                    ));
                }
                let word = tool.axis.word();
                let focus = format!("{word}_to_focus_on");
                let all = format!("all_{word}_bounding_boxes");
                let parameters = ["image", focus.as_str(), all.as_str()];
                let [image, names, boxes] =
                    bind(&tool.to_string(), parameters, positional, keywords)?;
                self.steps.push(Step {
                    tool,
                    image: image.into_image()?,
                    names: names.into_names()?,
                    boxes: boxes.into_boxes()?,
                });
                Ok(Value::Image(ImageSource::Step(self.steps.len() - 1)))
            }
        }
    }

    /// What the block shows.
    pub(super) fn finish(self, line: usize) -> Result<ToolCall, Refusal> {
        if self.statements == 0 {
            return Err(Refusal::new(RefusalReason::Empty, line, ""));
        }
        let image_of = |value: &Value| match value {
            Value::Image(image) => Some(*image),
            _ => None,
        };
        let asked = match (&self.displayed, self.last_focus) {
            (Some(value), _) => image_of(value),
            (None, Some(Focus::Variable(place))) => image_of(&self.variables[place]),
            (None, Some(Focus::Result(image))) => Some(image),
            (None, None) => None,
        };
        let shown = asked.or_else(|| self.variables[self.bound..].iter().rev().find_map(image_of));
        shown
            .and_then(|shown| ToolCall::of_steps(self.steps, shown))
            .ok_or_else(|| Refusal::new(RefusalReason::NothingEdited, line, ""))
    }
}

/// Arguments in the order of `parameters`, each exactly once.
fn bind<const N: usize>(
    function: &str,
    parameters: [&str; N],
    positional: Vec<Value>,
    keywords: Vec<(&str, Value)>,
) -> Result<[Value; N], Fault> {
    let given = positional.len() + keywords.len();
    let wrong = |what: String| (RefusalReason::Arguments, format!("{function}: {what}"));
    if given != N {
        return Err(wrong(format!("expected {N} arguments, found {given}")));
    }
    let mut slots: [Option<Value>; N] = [const { None }; N];
    for (slot, value) in slots.iter_mut().zip(positional) {
        *slot = Some(value);
    }
    for (name, value) in keywords {
        let place = parameters.iter().position(|parameter| *parameter == name);
        match place.map(|place| &mut slots[place]) {
            Some(slot @ None) => *slot = Some(value),
            Some(Some(_)) => return Err(wrong(format!("`{name}` is given twice"))),
            None => return Err(wrong(format!("there is no parameter `{name}`"))),
        }
    }
    // N distinct slots were filled by N arguments.
    Ok(slots.map(|slot| slot.unwrap_or(Value::Constant)))
}
