-- What an author may have meant who is used to another language, for the messages of syntax errors. Internal: not for `require`.

local H = ...
local find, match = string.find, string.match
local raw_ipairs = ipairs

-- What Lua says (a pattern), what the line holds (a pattern), the hint; the first that fits is told.
local HINTS = {
  { "near '!'", "!=", "not equal is ~= in Lua" },
  { "near '!'", "!", "not is written 'not' in Lua" },
  { "", "^%s*elif%f[%W]", "it is elseif in Lua" },
  { "near '[%+%-%*/]'", "[%+%-%*/]=", "Lua has no assignment like x += 1: write x = x + 1" },
  { "near '%.%.'", "%.%.=", "Lua has no assignment like x ..= y: write x = x .. y" },
  { "near '%+'", "%+%+", "Lua has no x++: write x = x + 1" },
  { "near '&'", "&&", "it is 'and' in Lua" },
  { "near '|'", "||", "it is 'or' in Lua" },
  { "", "^%s*def%f[%W]", "a function is 'local function name(...) ... end' in Lua" },
  { "", "^%s*import%f[%W]", "a module is loaded with require(name)" },
  { "", "^%s*from%s+%S+%s+import%f[%W]", "a module is loaded with require(name)" },
  { "", "^%s*let%s+[%a_]", "a variable is 'local name = value' in Lua" },
  { "", "^%s*var%s+[%a_]", "a variable is 'local name = value' in Lua" },
  { "", "^%s*const%s+[%a_]", "a variable is 'local name <const> = value' in Lua" },
  { "'then' expected", ":%s*$", "it is 'if ... then ... end' in Lua" },
  { "'then' expected", "[^=~<>]=[^=]", "equal is == in Lua" },
  { "'do' expected", ":%s*$", "it is 'for ... do ... end' and 'while ... do ... end' in Lua" },
  { "'='", "^%s*for%f[%W]", "it is 'for ... in ipairs(list) do ... end' in Lua" },
  { "near '//'", "^%s*//", "a comment begins with -- in Lua" },
  { "near '#'", "^%s*#", "a comment begins with -- in Lua" },
  { "near '%['", "%[", "a list is {1, 2} in Lua" },
  { "near ':'", ":", "a table is {key = value} in Lua" },
}

-- ". Hint", or "" for a mistake that is not one of these.
function H.syntax_hint(message, source, line)
  local number, text = 0, nil
  for each in (source .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    if number == line then
      text = each
      break
    end
  end
  if not text then return "" end
  for _, hint in raw_ipairs(HINTS) do
    if find(message, hint[1]) and find(text, hint[2]) then return ". " .. hint[3]:gsub("^%l", string.upper) end
  end
  return ""
end
