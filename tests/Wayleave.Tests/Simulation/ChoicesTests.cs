using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Simulation;

public class ChoicesTests
{
    [Fact]
    public void Exhaustive_answers_walk_every_combination_once_in_lexicographic_order()
    {
        Choices choices = Choices.Exhaustive();
        List<string> trails = [];
        do
        {
            // The second question depends on the first answer, as it does in a run.
            if (choices.Next(2) == 0)
            {
                choices.Next(3);
            }

            trails.Add(choices.ToString());
        }
        while (choices.MoveNext());
        Assert.Equal(["0.0", "0.1", "0.2", "1"], trails);
    }

    [Fact]
    public void A_question_with_one_answer_is_no_decision()
    {
        Choices choices = Choices.Exhaustive();
        Assert.Equal(0, choices.Next(1));
        Assert.False(choices.Chance(0));
        Assert.True(choices.Chance(1000));
        Assert.Equal("", choices.ToString());
        Assert.False(choices.MoveNext());
    }

    [Fact]
    public void A_chance_is_tried_both_ways()
    {
        Choices choices = Choices.Exhaustive();
        Assert.False(choices.Chance(1));
        Assert.True(choices.MoveNext());
        Assert.True(choices.Chance(1));
        Assert.False(choices.MoveNext());
    }

    [Fact]
    public void A_trail_replays_and_then_answers_zero()
    {
        Choices choices = Choices.Replay("2.0.1");
        Assert.Equal([2, 0, 1, 0], [choices.Next(3), choices.Next(3), choices.Next(2), choices.Next(5)]);
        Assert.False(choices.MoveNext());
    }

    [Fact]
    public void A_trail_that_does_not_fit_says_so() =>
        Assert.Contains(
            "does not fit", Assert.Throws<TrailException>(() => Choices.Replay("3").Next(3)).Message);

    [Theory]
    [InlineData("x")]
    [InlineData("1.-2")]
    [InlineData("seed:")]
    [InlineData("seed:99999999999999999999")]
    [InlineData("1..2")]
    [InlineData("1.")]
    [InlineData("0x3")]
    [InlineData("3x")]
    [InlineData("2x3x4")]
    [InlineData("99999999999")]
    [InlineData("2000000x0")]
    [InlineData("600000x0.600000x1")]
    public void A_text_that_is_no_trail_is_refused(string text) =>
        Assert.Throws<FormatException>(() => Choices.Replay(text));

    [Fact]
    public void A_long_trail_counts_equal_neighbours_and_leaves_out_the_zeros_at_its_end()
    {
        Choices choices = Choices.Replay("0.0.0.2.1.1.0.0");
        for (int i = 0; i < 8; i++)
        {
            choices.Next(3);
        }

        Assert.Equal("3x0.2.2x1", choices.Trail);
        Choices again = Choices.Replay(choices.Trail);
        Assert.Equal([0, 0, 0, 2, 1, 1, 0, 0], Enumerable.Range(0, 8).Select(_ => again.Next(3)));
        Assert.Equal("0", Choices.Exhaustive().Trail);
    }

    [Fact]
    public void A_seed_is_its_own_trail()
    {
        Choices choices = Choices.Seeded(42);
        int[] first = [.. Enumerable.Range(0, 100).Select(_ => choices.Next(1000))];
        Assert.Equal("seed:42", choices.ToString());
        Choices again = Choices.Replay(choices.ToString());
        Assert.Equal(first, Enumerable.Range(0, 100).Select(_ => again.Next(1000)));
    }

    [Fact]
    public void A_seeded_chance_comes_about_as_often_as_it_says()
    {
        Choices choices = Choices.Seeded(7);
        int happened = Enumerable.Range(0, 10_000).Count(_ => choices.Chance(250));
        Assert.InRange(happened, 2_300, 2_700);
    }
}
