using Wayleave.Devices.Ethernet.Tcp;
using Xunit;

namespace Wayleave.Tests.Ethernet.Tcp;

/// <summary>CUBIC by the numbers of RFC 9438, in segments; each round trip acknowledges a whole window.</summary>
public class CubicWindowTests
{
    private const int Segment = 1000;

    private static readonly TimeSpan s_longTrip = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_shortTrip = TimeSpan.FromMilliseconds(1);

    // K = cbrt(100 * 0.3 / 0.4) = 4.2 s: by then the window is where it was, and twice as long after the loss 30 above.
    [Fact]
    public void After_a_loss_the_window_comes_back_to_where_it_was_and_then_goes_beyond()
    {
        CubicWindow window = LostAt(100);
        Assert.Equal(70, Segments(window));
        Assert.InRange(Run(window, s_longTrip, trips: 20), 94, 97);
        Assert.InRange(Run(window, s_longTrip, trips: 22, from: 20), 98, 101);
        Assert.InRange(Run(window, s_longTrip, trips: 42, from: 42), 126, 131);
    }

    // Section 4.3: 0.53 segments a round trip until it is where it was, and one afterwards.
    [Fact]
    public void Where_round_trips_are_short_it_grows_no_slower_than_Reno()
    {
        CubicWindow window = LostAt(100);
        Assert.InRange(Run(window, s_shortTrip, trips: 56), 98, 101);
        Assert.InRange(Run(window, s_shortTrip, trips: 100, from: 56), 196, 202);
    }

    // Section 4.7: a flow that loses below its last plateau makes room: the next one is at 0.85 of the window.
    [Fact]
    public void A_second_loss_below_the_first_lowers_the_plateau()
    {
        CubicWindow window = LostAt(100);
        Run(window, s_longTrip, trips: 5);
        double second = Segments(window);
        Assert.InRange(second, 75, 90);
        window.HandleLoss(window.Bytes);
        window.Bytes = window.Threshold;
        double plateau = second * 0.85;
        double k = Math.Cbrt((plateau - (second * 0.7)) / 0.4);
        Assert.InRange(Run(window, 2 * s_longTrip, (int)(k * 5)), plateau - 2, plateau + 2); // Reno is slower there
    }

    // Section 4.8: slow start to the threshold, then convex from there: Reno's part is the larger one at first.
    [Fact]
    public void After_a_time_out_the_plateau_is_where_avoidance_begins()
    {
        CubicWindow window = Open(100);
        window.HandleLoss(window.Bytes);
        window.Collapse();
        Assert.Equal((1, 70_000), (Segments(window), window.Threshold));
        int trips = 0;
        while (window.Bytes < window.Threshold)
        {
            Run(window, s_longTrip, trips: 1, from: trips++);
        }

        Assert.InRange(trips, 6, 8);
        Assert.InRange(Segments(window), 70, 71);
        Assert.InRange(Run(window, s_longTrip, trips: 20, from: trips), 78, 83);
    }

    [Fact]
    public void The_threshold_is_0_7_of_what_was_under_way_and_two_segments_at_least()
    {
        CubicWindow window = Open(100);
        window.HandleLoss(10 * Segment);
        Assert.Equal(7 * Segment, window.Threshold);
        window.HandleLoss(Segment);
        Assert.Equal(2 * Segment, window.Threshold);
    }

    private static CubicWindow Open(int segments) => new(Segment, segments);

    private static CubicWindow LostAt(int segments)
    {
        CubicWindow window = Open(segments);
        window.HandleLoss(window.Bytes);
        window.Bytes = window.Threshold;
        return window;
    }

    private static double Run(CubicWindow window, TimeSpan trip, int trips, int from = 0)
    {
        for (int i = 1; i <= trips; i++)
        {
            window.Grow((from + i) * trip, window.Bytes, trip);
        }

        return Segments(window);
    }

    private static double Segments(CubicWindow window) => (double)window.Bytes / Segment;
}
