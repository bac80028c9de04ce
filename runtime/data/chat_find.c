/* chat_find.c - which of the known templates a model comes with, by what only that one says. A template is a program; one
 * that says something else in between is another one, and not guessed at. */
#include "dstrain/json.h"
#include "dstrain/rows.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 64 << 20, PATH_BYTES = 4352, MARKS_MAX = 4 };

/* The first that has all of `has` and none of `lacks`. */
static const struct {
    enum ds_chat_kind kind;
    const char *has[MARKS_MAX], *lacks[MARKS_MAX];
} known[] = {
    {DS_CHAT_DEEPSEEK_LLM,
     {"'User: ' + message['content']", "'Assistant: ' + message['content'] + eos_token",
      "'Assistant:'"},
     {"raise_exception", "<\xef\xbd\x9cUser"}},
    {DS_CHAT_DEEPSEEK_R1,
     {"<\xef\xbd\x9cUser\xef\xbd\x9c>",
      "<\xef\xbd\x9c"
      "Assistant\xef\xbd\x9c>",
      "</think>"},
     {"thinking"}},
    {DS_CHAT_DEEPSEEK,
     {"<\xef\xbd\x9cUser\xef\xbd\x9c>", "<\xef\xbd\x9c"
                                        "Assistant\xef\xbd\x9c>"},
     {"think>", "thinking"}},
    {DS_CHAT_QWEN3, {"<|im_start|>", "</think>", "last_query_index", "reasoning_content"}, {NULL}},
    {DS_CHAT_QWEN, {"<|im_start|>", "You are Qwen, created by Alibaba Cloud."}, {"<think>"}},
    {DS_CHAT_QWEN2,
     {"<|im_start|>", "system\\nYou are a helpful assistant.<|im_end|>",
      "loop.first and messages[0]['role'] != 'system'"},
     {"think>", "tool", "loop.last", "image"}},
    {DS_CHAT_CHATML, {"<|im_start|>", "<|im_end|>"}, {"think>", "You are", "tool_response"}},
    {DS_CHAT_LLAMA31,
     {"<|start_header_id|>", "Cutting Knowledge Date: December 2023",
      "\"Today Date: \" + date_string", "\"26 Jul 2024\""},
     {"think>", "image"}},
    {DS_CHAT_LLAMA3, {"<|start_header_id|>", "<|eot_id|>"}, {"Knowledge Date", "think>"}},
    {DS_CHAT_LLAMA2, {"[INST]", "<<SYS>>"}, {"[AVAILABLE_TOOLS]"}},
};

enum ds_chat_kind ds_chat_of_template(const char *text)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int fits = 1;

        for (size_t m = 0; m < MARKS_MAX; m++) {
            fits &= !known[i].has[m] || strstr(text, known[i].has[m]) != NULL;
            fits &= !known[i].lacks[m] || strstr(text, known[i].lacks[m]) == NULL;
        }
        if (fits)
            return known[i].kind;
    }
    return DS_CHAT_AUTO;
}

static ds_status read_if_there(struct ds_fs *fs, const char *folder, const char *name, char **out,
                               size_t *bytes)
{
    char path[PATH_BYTES];
    struct ds_fs_stat stat;

    *out = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path ||
        ds_fs_stat(fs, path, &stat) == -ENOENT)
        return DS_OK;
    return ds_fs_read_file(fs, path, FILE_BYTES_MAX, out, bytes);
}

/* The template in the settings: a text, or a list of named ones, of which "default" is meant. */
static const char *template_in(const json_t *settings)
{
    const json_t *value = json_object_get(settings, "chat_template"), *entry;
    size_t i;

    if (!json_is_array(value))
        return json_string_value(value);
    json_array_foreach(value, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            return json_string_value(json_object_get(entry, "template"));
    }
    return NULL;
}

static void say(const char *folder, const char *template, enum ds_chat_kind *out,
                char why[DS_CHAT_WHY_BYTES])
{
    *out = template ? ds_chat_of_template(template) : DS_CHAT_AUTO;
    if (*out == DS_CHAT_AUTO)
        snprintf(
            why, DS_CHAT_WHY_BYTES,
            "%.80s has %s; set data.chat_template to plain, chatml, qwen, qwen2, qwen3, llama2, "
            "llama3, llama3.1, deepseek-llm, deepseek, deepseek-r1 or custom",
            folder, template ? "another one than those known here" : "none");
}

static ds_status of_settings(struct ds_fs *fs, const char *folder, enum ds_chat_kind *out,
                             char why[DS_CHAT_WHY_BYTES])
{
    static const char name[] = "tokenizer_config.json";
    json_t *settings = NULL;
    char *text;
    size_t bytes = 0;
    ds_status st = DS_OK;

    DS_TRY(read_if_there(fs, folder, name, &text, &bytes));
    if (text)
        st = ds_json_parse(name, text, bytes, &settings);
    if (st == DS_OK)
        say(folder, settings ? template_in(settings) : NULL, out, why);
    json_decref(settings);
    free(text);
    return st;
}

ds_status ds_chat_recognise(struct ds_fs *fs, const char *folder, enum ds_chat_kind *out,
                            char why[DS_CHAT_WHY_BYTES])
{
    char *text;
    size_t bytes = 0;

    why[0] = '\0';
    DS_TRY(read_if_there(fs, folder, "chat_template.jinja", &text, &bytes));
    if (!text)
        return of_settings(fs, folder, out, why);
    say(folder, text, out, why);
    free(text);
    return DS_OK;
}
