using System.Diagnostics;
using System.Globalization;

namespace Wayleave.Compare;

/// <summary>What one run of <c>ucx_perftest</c> measured.</summary>
/// <param name="BytesPerS">Overall bandwidth.</param>
/// <param name="MessagesPerS">Overall message rate.</param>
/// <param name="LatencyUs">Half a round trip in microseconds, the median; of the latency tests only.</param>
public readonly record struct UcxPerftest(double BytesPerS, double MessagesPerS, double LatencyUs)
{
    /// <summary>
    /// Runs a server and a client on this machine that meet over 127.0.0.1; the data goes by the transports that the
    /// environment names.
    /// </summary>
    /// <param name="test">As for its option <c>-t</c>.</param>
    /// <param name="sizeBytes">Of a message.</param>
    /// <param name="iterations">Messages, besides those of the warm-up.</param>
    /// <param name="warmUp">Messages before.</param>
    /// <param name="environment">Of both processes.</param>
    /// <param name="command">What starts the server (true) or the client, or null: the program itself.</param>
    /// <exception cref="PeerException">A process failed, or printed no figures.</exception>
    public static UcxPerftest Run(
        string test,
        int sizeBytes,
        int iterations,
        int warmUp,
        (string Name, string Value)[] environment,
        Func<bool, string[]>? command = null)
    {
        string port = PeerProgram.FreePort();
        string[] own = command?.Invoke(true) ?? ["ucx_perftest"];
        using Process server = PeerProgram.Start(own[0], [.. own[1..], "-p", port], environment);
        try
        {
            PeerProgram.AwaitListener(port, server);
            own = command?.Invoke(false) ?? ["ucx_perftest"];
            string csv = PeerProgram.Run(
                own[0],
                [
                    .. own[1..], "127.0.0.1", "-p", port, "-t", test, "-s", Text(sizeBytes), "-n", Text(iterations),
                    "-w", Text(warmUp), "-f", "-v",
                ],
                environment);
            string[] values = csv.Trim().Split('\n')[^1].Split(',');
            return values.Length < 8
                ? throw new PeerException($"ucx_perftest said: {csv}")
                : new UcxPerftest(Number(values[5]) * (1 << 20), Number(values[7]), Number(values[1]));
        }
        finally
        {
            PeerProgram.End(server);
        }
    }

    private static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

    private static double Number(string text) => double.Parse(text, CultureInfo.InvariantCulture);
}
