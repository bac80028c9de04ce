// link: data storage base
// private: runtime/data
/* Conversations as tokens: the text is the one that transformers renders, a model is asked with the tokens that stand in
 * front of an answer, what is learned is the answers and their ends, and nobody but a template writes control tokens. */
#include "capture.h"
#include "test.h"

#include "chat.h"

#include <jansson.h>

/* ---- tokenizers of the golden cases, with the tokens that templates need */

struct rig {
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct chat chat;
    struct sample_writer writer;
};

static json_t *load_json(const char *path)
{
    char full[512];
    json_error_t error;
    json_t *json;

    snprintf(full, sizeof full, "%s/tests/golden/%s", DS_SOURCE_DIR, path);
    json = json_load_file(full, JSON_ALLOW_NUL, &error);
    if (!json)
        fail_msg("%s: %s", full, error.text);
    return json;
}

static void add_token(json_t *tokenizer, const char *token, int id)
{
    json_t *entry =
        json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", token, "single_word",
                  0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);

    assert_int_equal(json_array_append_new(json_object_get(tokenizer, "added_tokens"), entry), 0);
}

static struct ds_tokenizer *make_tokenizer(const char *name)
{
    struct ds_tokenizer *tokenizer = NULL;
    char path[128];
    json_t *json;
    char *text;

    snprintf(path, sizeof path, "tokenizers/%s/tokenizer.json", name);
    json = load_json(path);
    if (strcmp(name, "llama3") == 0) {
        add_token(json, "<|start_header_id|>", 700);
        add_token(json, "<|end_header_id|>", 701);
    }
    text = json_dumps(json, JSON_COMPACT);
    assert_ok(ds_tokenizer_parse(name, text, strlen(text), &tokenizer));
    free(text);
    json_decref(json);
    return tokenizer;
}

static enum ds_chat_kind kind_of(const char *name)
{
    static const char *const names[] = {[DS_CHAT_PLAIN] = "plain",
                                        [DS_CHAT_CHATML] = "chatml",
                                        [DS_CHAT_QWEN] = "qwen",
                                        [DS_CHAT_QWEN3] = "qwen3",
                                        [DS_CHAT_LLAMA2] = "llama2",
                                        [DS_CHAT_LLAMA3] = "llama3",
                                        [DS_CHAT_LLAMA31] = "llama3.1",
                                        [DS_CHAT_QWEN2] = "qwen2",
                                        [DS_CHAT_DEEPSEEK_LLM] = "deepseek-llm",
                                        [DS_CHAT_DEEPSEEK] = "deepseek",
                                        [DS_CHAT_DEEPSEEK_R1] = "deepseek-r1"};

    for (size_t i = 1; i < sizeof names / sizeof *names; i++)
        if (names[i] && strcmp(names[i], name) == 0)
            return (enum ds_chat_kind)i;
    fail_msg("no chat template is called %s", name);
    return DS_CHAT_AUTO;
}

static void open_rig(struct rig *rig, const char *tokenizer, const struct ds_rows_options *options)
{
    *rig = (struct rig){.tokenizer =
                            strcmp(tokenizer, "bytes") == 0 ? NULL : make_tokenizer(tokenizer)};
    if (!rig->tokenizer)
        assert_ok(ds_tokenizer_open(ds_fs_posix(), "bytes", &rig->tokenizer));
    assert_ok(ds_encoder_open(rig->tokenizer, &rig->encoder));
    assert_ok(chat_init(&rig->chat, options, rig->tokenizer));
    rig->writer = (struct sample_writer){.tokenizer = rig->tokenizer,
                                         .encoder = rig->encoder,
                                         .name = "test",
                                         .control = rig->chat.control,
                                         .control_count = rig->chat.control_count,
                                         .learns_all = options->train_on == DS_TRAIN_ON_ALL};
}

static void close_rig(struct rig *rig)
{
    chat_fini(&rig->chat);
    sample_writer_fini(&rig->writer);
    ds_encoder_close(rig->encoder);
    ds_tokenizer_close(rig->tokenizer);
}

/* The conversation of a row {"messages": ...}; what is wrong with it in `why`. */
static uint64_t write_row(struct rig *rig, const char *line, char why[ROW_WHY_BYTES])
{
    struct row_reader reader = {0};
    struct row row;
    uint64_t learned = 0;

    assert_ok(row_read(&reader, DS_ROW_AUTO, line, strlen(line), &row, why));
    if (!why[0]) {
        rig->writer.ids.count = 0;
        assert_ok(sample_begin(&rig->writer, rig->chat.kind == DS_CHAT_PLAIN));
        assert_ok(chat_write(&rig->chat, &rig->writer, &row, why));
        if (!why[0])
            assert_ok(sample_finish(&rig->writer, &learned));
    }
    row_reader_fini(&reader);
    return learned;
}

static void write_messages(struct rig *rig, const json_t *messages)
{
    json_t *row = json_pack("{s:O}", "messages", messages);
    char *line = json_dumps(row, JSON_COMPACT), why[ROW_WHY_BYTES];

    (void)write_row(rig, line, why);
    assert_string_equal(why, "");
    free(line);
    json_decref(row);
}

static void assert_text(const struct rig *rig, size_t from, size_t to, const char *wanted)
{
    char *text = NULL;
    size_t bytes = 0;

    assert_ok(ds_tokenizer_decode(rig->tokenizer, rig->writer.ids.ids + from, to - from, 0, &text,
                                  &bytes));
    assert_string_equal(text, wanted);
    free(text);
}

/* What is learned, spans in brackets. */
static void learned_text(const struct rig *rig, char *to, size_t bytes)
{
    const struct sample_writer *w = &rig->writer;
    size_t used = 0;

    to[0] = '\0';
    for (size_t from = 0, end; from < w->ids.count; from = end) {
        char *text = NULL;
        size_t length;
        for (end = from + 1; end < w->ids.count && w->learned[end] == w->learned[from]; end++) {
        }
        if (!w->learned[from])
            continue;
        assert_ok(
            ds_tokenizer_decode(rig->tokenizer, w->ids.ids + from, end - from, 0, &text, &length));
        used += (size_t)snprintf(to + used, bytes - used, "[%s]", text);
        free(text);
    }
}

/* ---- the golden cases */

static void for_each_case(void (*check)(const json_t *c, const char *name, const char *tokenizer))
{
    json_t *golden = load_json("chat/expected.json");
    const json_t *c;
    size_t i;

    json_array_foreach(json_object_get(golden, "cases"), i, c)
        check(c, json_string_value(json_object_get(c, "template")),
              json_string_value(json_object_get(c, "tokenizer")));
    assert_true(i > 60);
    json_decref(golden);
}

/* A space in front is the decoder's to take away, where there is one. */
static void encode_whole(const struct rig *rig, const char *text, struct ds_token_list *out)
{
    out->count = 0;
    assert_ok(ds_encoder_encode(rig->encoder, "golden", text, strlen(text), 0, out));
}

static int an_answer_begins_a_line(const json_t *c)
{
    const json_t *message;
    size_t i;

    json_array_foreach(json_object_get(c, "messages"), i,
                       message) if (json_string_value(json_object_get(message, "content"))[0] ==
                                    '\n') return 1;
    return 0;
}

static void check_whole(const json_t *c, const char *name, const char *tokenizer)
{
    const struct ds_rows_options options = {.chat = kind_of(name), .train_on = DS_TRAIN_ON_ALL};
    const char *text = json_string_value(json_object_get(c, "text"));
    struct ds_token_list wanted = {0};
    struct rig rig;

    open_rig(&rig, tokenizer, &options);
    write_messages(&rig, json_object_get(c, "messages"));
    encode_whole(&rig, text, &wanted);
    if (strcmp(tokenizer, "llama2") != 0)
        assert_text(&rig, 0, rig.writer.ids.count, text);
    if (!an_answer_begins_a_line(c)) {
        assert_int_equal(rig.writer.ids.count, wanted.count);
        assert_memory_equal(rig.writer.ids.ids, wanted.ids, wanted.count * sizeof *wanted.ids);
    }
    ds_token_list_fini(&wanted);
    close_rig(&rig);
}

static void tokens_are_those_of_the_text_that_transformers_renders(void **state)
{
    (void)state;
    for_each_case(check_whole);
}

/* R1 is asked with the beginning of its thoughts, which here belong to the answer. */
static void check_asked(const json_t *c, const char *name, const char *tokenizer)
{
    const struct ds_rows_options options = {.chat = kind_of(name), .train_on = DS_TRAIN_ON_LAST};
    const char *asked = json_string_value(json_object_get(c, "asked"));
    const size_t length = strlen(asked) - (strcmp(name, "deepseek-r1") == 0 ? 8 : 0);
    struct ds_token_list wanted = {0};
    struct rig rig;
    size_t first = 0;

    open_rig(&rig, tokenizer, &options);
    write_messages(&rig, json_object_get(c, "messages"));
    assert_ok(ds_encoder_encode(rig.encoder, "golden", asked, length, 0, &wanted));
    while (first < rig.writer.ids.count && !rig.writer.learned[first])
        first++;
    assert_int_equal(first, wanted.count);
    assert_memory_equal(rig.writer.ids.ids, wanted.ids, wanted.count * sizeof *wanted.ids);
    ds_token_list_fini(&wanted);
    close_rig(&rig);
}

static void in_front_of_an_answer_is_what_a_model_is_asked_with(void **state)
{
    (void)state;
    for_each_case(check_asked);
}

static void known_templates_are_recognised_and_others_are_not(void **state)
{
    static const char *const others[] = {
        "", "{{ messages }}", "<|im_start|>user <think>",
        "{% if date_string %}Cutting Knowledge Date <|start_header_id|> <|eot_id|>",
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>"};
    json_t *golden = load_json("chat/expected.json"), *template;
    const char *name;

    (void)state;
    json_object_foreach(json_object_get(golden, "templates"), name, template)
        assert_int_equal(ds_chat_of_template(json_string_value(template)), kind_of(name));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(ds_chat_of_template(others[i]), DS_CHAT_AUTO);
    json_decref(golden);
}

/* ---- what is learned */

static const char two_turns[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"q1\"},{\"role\":\"assistant\",\"content\":"
    "\"a1\"},"
    "{\"role\":\"user\",\"content\":\"q2\"},{\"role\":\"assistant\",\"content\":\"a2\"},"
    "{\"role\":\"user\",\"content\":\"q3\"}]}";

static void assert_learned(const char *tokenizer, enum ds_chat_kind kind, enum ds_train_on on,
                           const char *line, const char *wanted)
{
    const struct ds_rows_options options = {.chat = kind, .train_on = on};
    char why[ROW_WHY_BYTES], text[512];
    struct rig rig;

    open_rig(&rig, tokenizer, &options);
    (void)write_row(&rig, line, why);
    assert_string_equal(why, "");
    learned_text(&rig, text, sizeof text);
    assert_string_equal(text, wanted);
    close_rig(&rig);
}

static void answers_and_their_ends_are_learned_and_nothing_else(void **state)
{
    (void)state;
    assert_learned("qwen3", DS_CHAT_CHATML, DS_TRAIN_ON_COMPLETIONS, two_turns,
                   "[a1<|im_end|>][a2<|im_end|>]");
    assert_learned("qwen3", DS_CHAT_CHATML, DS_TRAIN_ON_LAST, two_turns, "[a2<|im_end|>]");
    assert_learned("llama3", DS_CHAT_LLAMA3, DS_TRAIN_ON_COMPLETIONS, two_turns,
                   "[a1<|eot_id|>][a2<|eot_id|>]");
    assert_learned("qwen3", DS_CHAT_QWEN3, DS_TRAIN_ON_LAST,
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},"
                   "{\"role\":\"assistant\",\"content\":\"<think>t</think>a\"}]}",
                   "[<think>\nt\n</think>\n\na<|im_end|>]");
    assert_learned("qwen3", DS_CHAT_CHATML, DS_TRAIN_ON_COMPLETIONS,
                   "{\"prompt\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\","
                   "\"content\":\"no\"},{\"role\":\"user\",\"content\":\"q\"}],\"completion\":"
                   "[{\"role\":\"assistant\",\"content\":\"yes\"}]}",
                   "[yes<|im_end|>]");
}

/* Behind the last learned token nothing is kept; all of it is learned with `all`. */
static void nothing_is_kept_behind_the_last_learned_token(void **state)
{
    const struct ds_rows_options options = {.chat = DS_CHAT_CHATML};
    char why[ROW_WHY_BYTES];
    struct rig rig;

    (void)state;
    open_rig(&rig, "qwen3", &options);
    (void)write_row(&rig, two_turns, why);
    assert_text(&rig, 0, rig.writer.ids.count,
                "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
                "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>");
    assert_int_equal(rig.writer.end_count, 2);
    close_rig(&rig);
}

static void a_custom_template_is_written_as_it_says(void **state)
{
    const struct ds_rows_options options = {.chat = DS_CHAT_CUSTOM,
                                            .texts = {.start = "{bos}",
                                                      .system = "",
                                                      .user = "\\#\\# User:\\s{content}\\n",
                                                      .assistant = "\\#\\# Bot:{content}\\n",
                                                      .tool = "",
                                                      .end = " {eos}"}};
    char why[ROW_WHY_BYTES], text[256];
    struct rig rig;

    (void)state;
    open_rig(&rig, "bytes", &options);
    (void)write_row(&rig, two_turns, why);
    assert_string_equal(why, "");
    learned_text(&rig, text, sizeof text);
    assert_string_equal(text, "[a1 <eos>][a2 <eos>]");
    assert_text(&rig, 0, rig.writer.ids.count,
                "<bos>## User: q1\n## Bot:a1 <eos>\n## User: q2\n## Bot:a2 <eos>");
    (void)write_row(&rig,
                    "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":"
                    "\"assistant\",\"content\":\"a\"}]}",
                    why);
    assert_non_null(strstr(why, "messages[0] is of role system, but data.chat_system is empty"));
    close_rig(&rig);
}

/* An end that is no token of its own is learned, too, and counts as one. */
static void an_end_may_be_text(void **state)
{
    const struct ds_rows_options options = {.chat = DS_CHAT_CUSTOM,
                                            .texts = {.start = "",
                                                      .system = "",
                                                      .user = "U:{content} ",
                                                      .assistant = "A:{content} ",
                                                      .tool = "",
                                                      .end = "||"}};
    char why[ROW_WHY_BYTES], text[256];
    struct rig rig;

    (void)state;
    open_rig(&rig, "qwen3", &options);
    (void)write_row(&rig, two_turns, why);
    learned_text(&rig, text, sizeof text);
    assert_string_equal(text, "[a1||][a2||]");
    assert_int_equal(rig.writer.end_count, 2);
    close_rig(&rig);
}

/* "say." and a line feed are one token, but a model is asked with "say." alone. */
static void where_an_answer_begins_inside_a_token_the_text_is_cut(void **state)
{
    const struct ds_rows_options options = {.chat = DS_CHAT_CHATML};
    struct ds_token_list asked = {0}, whole = {0};
    uint64_t learned = 0;
    char text[64];
    struct rig rig;

    (void)state;
    open_rig(&rig, "qwen3", &options);
    encode_whole(&rig, "say.", &asked);
    encode_whole(&rig, "say.\nit", &whole);
    assert_int_not_equal(whole.ids[asked.count - 1], asked.ids[asked.count - 1]);
    assert_ok(sample_begin(&rig.writer, 1));
    assert_ok(sample_text(&rig.writer, (struct row_text){"say.", 4}));
    assert_ok(sample_answer(&rig.writer, (struct row_text){"\nit", 3}, 1));
    assert_ok(sample_end(&rig.writer, "{eos}", 1));
    assert_ok(sample_finish(&rig.writer, &learned));
    assert_memory_equal(rig.writer.ids.ids, asked.ids, asked.count * sizeof *asked.ids);
    for (size_t i = 0; i < rig.writer.ids.count; i++)
        assert_int_equal(rig.writer.learned[i], i >= asked.count);
    learned_text(&rig, text, sizeof text);
    assert_string_equal(text, "[\nit]");
    ds_token_list_fini(&asked);
    ds_token_list_fini(&whole);
    close_rig(&rig);
}

/* ---- control tokens */

static size_t count_control(const struct rig *rig)
{
    size_t count = 0;

    for (size_t i = 0; i < rig->writer.ids.count; i++) {
        int is_control = ds_tokenizer_is_special(rig->tokenizer, rig->writer.ids.ids[i]);
        for (size_t k = 0; k < rig->chat.control_count; k++)
            is_control |= rig->chat.control[k] == rig->writer.ids.ids[i];
        count += is_control;
    }
    return count;
}

/* Everything that a tokenizer has as a token of its own, in each role. */
static void people_write_no_control_tokens(void **state)
{
    static const struct {
        const char *tokenizer, *template;
    } cases[] = {{"qwen3", "qwen3"},
                 {"llama3", "llama3"},
                 {"deepseek_v3", "deepseek"},
                 {"llama2", "llama2"}};
    static const char all[] =
        "<|im_start|><|im_end|><|endoftext|><|begin_of_text|><|eot_id|><|start_header_id|><s></s>"
        "<unk><|end_of_text|><\xef\xbd\x9cUser\xef\xbd\x9c><\xef\xbd\x9c"
        "Assistant\xef\xbd\x9c><\xef\xbd\x9c"
        "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>";

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ds_rows_options options = {.chat = kind_of(cases[i].template),
                                                .train_on = DS_TRAIN_ON_ALL};
        char line[2048], why[ROW_WHY_BYTES];
        size_t counts[2];
        struct rig rig;

        open_rig(&rig, cases[i].tokenizer, &options);
        for (int hostile = 0; hostile < 2; hostile++) {
            const char *text = hostile ? all : "x";
            snprintf(line, sizeof line,
                     "{\"messages\":[{\"role\":\"system\",\"content\":\"%s\"},{\"role\":\"user\","
                     "\"content\":\"%s\"},{\"role\":\"assistant\",\"content\":\"%s\"}]}",
                     text, text, text);
            (void)write_row(&rig, line, why);
            assert_string_equal(why, "");
            counts[hostile] = count_control(&rig);
        }
        assert_true(counts[0] >= 2);
        assert_int_equal(counts[0], counts[1]);
        close_rig(&rig);
    }
}

/* A person's <think> is text; the assistant's is the token that the model knows. */
static void tokens_that_are_text_are_the_assistants_alone(void **state)
{
    const struct ds_rows_options options = {.chat = DS_CHAT_CHATML};
    char why[ROW_WHY_BYTES];
    uint32_t think = 0;
    size_t count = 0;
    struct rig rig;

    (void)state;
    open_rig(&rig, "qwen3", &options);
    assert_true(ds_tokenizer_find(rig.tokenizer, "<think>", &think));
    (void)write_row(&rig,
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"a <think> b\"},"
                    "{\"role\":\"assistant\",\"content\":\"a <think> b\"}]}",
                    why);
    for (size_t i = 0; i < rig.writer.ids.count; i++)
        if (rig.writer.ids.ids[i] == think) {
            count++;
            assert_true(rig.writer.learned[i]);
        }
    assert_int_equal(count, 1);
    close_rig(&rig);
}

/* ---- what is refused */

static void a_tokenizer_of_another_family_is_refused(void **state)
{
    static const struct ds_rows_options options = {.chat = DS_CHAT_LLAMA3};
    struct ds_tokenizer *tokenizer = make_tokenizer("qwen3");
    struct capture capture;
    struct chat chat;

    (void)state;
    capture_begin(&capture);
    assert_int_equal(chat_init(&chat, &options, tokenizer), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture),
                           "data.chat_template = llama3 writes the token <|begin_of_text|>, which "
                           "the tokenizer does not have: they do not belong together"));
    chat_fini(&chat);
    ds_tokenizer_close(tokenizer);
}

static void custom_templates_that_cannot_be_are_refused(void **state)
{
    static const struct {
        struct ds_chat_texts texts;
        const char *said;
    } cases[] = {
        {{"", "", "user", "{content}", "", ""},
         "data.chat_user = user: there is no {content} in it"},
        {{"", "", "{content}", "", "", ""}, "needs data.chat_user and data.chat_assistant"}};
    struct ds_tokenizer *tokenizer = make_tokenizer("qwen3");

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ds_rows_options options = {.chat = DS_CHAT_CUSTOM, .texts = cases[i].texts};
        struct capture capture;
        struct chat chat;

        capture_begin(&capture);
        assert_int_equal(chat_init(&chat, &options, tokenizer), DS_ERR_CONFIG);
        assert_non_null(strstr(capture_end(&capture), cases[i].said));
        chat_fini(&chat);
    }
    ds_tokenizer_close(tokenizer);
}

#define MESSAGE(role, content) "{\"role\":\"" role "\",\"content\":\"" content "\"}"

static void conversations_that_a_template_cannot_say_are_refused(void **state)
{
    static const struct {
        const char *tokenizer, *template, *line, *why;
    } cases[] = {{"qwen3", "chatml", "{\"messages\":[" MESSAGE("user", "q") "]}",
                  "no message is the assistant's"},
                 {"llama2", "llama2",
                  "{\"messages\":[" MESSAGE("user", "q") "," MESSAGE("user", "q") "," MESSAGE(
                      "assistant", "a") "]}",
                  "messages[1]: in llama2's chat template roles alternate"},
                 {"deepseek_v3", "deepseek",
                  "{\"messages\":[" MESSAGE("tool", "q") "," MESSAGE("assistant", "a") "]}",
                  "this chat template has no messages of role 'tool'"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct ds_rows_options options = {.chat = kind_of(cases[i].template)};
        char why[ROW_WHY_BYTES];
        struct rig rig;

        open_rig(&rig, cases[i].tokenizer, &options);
        (void)write_row(&rig, cases[i].line, why);
        if (!strstr(why, cases[i].why))
            fail_msg("'%s' does not say '%s'", why, cases[i].why);
        close_rig(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_those_of_the_text_that_transformers_renders),
        cmocka_unit_test(in_front_of_an_answer_is_what_a_model_is_asked_with),
        cmocka_unit_test(known_templates_are_recognised_and_others_are_not),
        cmocka_unit_test(answers_and_their_ends_are_learned_and_nothing_else),
        cmocka_unit_test(nothing_is_kept_behind_the_last_learned_token),
        cmocka_unit_test(a_custom_template_is_written_as_it_says),
        cmocka_unit_test(an_end_may_be_text),
        cmocka_unit_test(where_an_answer_begins_inside_a_token_the_text_is_cut),
        cmocka_unit_test(people_write_no_control_tokens),
        cmocka_unit_test(tokens_that_are_text_are_the_assistants_alone),
        cmocka_unit_test(a_tokenizer_of_another_family_is_refused),
        cmocka_unit_test(custom_templates_that_cannot_be_are_refused),
        cmocka_unit_test(conversations_that_a_template_cannot_say_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
