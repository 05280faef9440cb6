using System.Runtime.CompilerServices;
using Wayleave.Devices.Ethernet;

namespace Wayleave.Host.Ethernet;

/// <summary>Ways to read that are the same for each kind of connection.</summary>
public static class DevmemReading
{
    private const int Fragments = 64;
    private const int LinearBytes = 64 << 10;

    /// <summary>
    /// All pieces until the end, one after the other. Each is the caller's until it asks for the next: then its token
    /// is returned. A linear piece begins in <paramref name="linear"/> at its <see cref="DevmemFragment.Offset"/>.
    /// </summary>
    /// <param name="connection">Read by nobody else meanwhile.</param>
    /// <param name="linear">For bytes that are not in device memory; null for a buffer that nobody looks at.</param>
    /// <param name="cancellation">Ends the enumeration.</param>
    public static async IAsyncEnumerable<DevmemFragment> ReadAllAsync(
        this IDevmemConnection connection,
        Memory<byte>? linear = null,
        [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(connection);
        Memory<byte> buffer = linear ?? new byte[LinearBytes];
        DevmemFragment[] fragments = new DevmemFragment[Fragments];
        while (true)
        {
            ReceiveResult result = await connection.ReadAsync(buffer, fragments, cancellation).ConfigureAwait(false);
            if (result.Bytes == 0)
            {
                yield break;
            }

            // Bytes of a queue that is bound to nothing come without a description.
            if (result.Fragments == 0)
            {
                yield return new DevmemFragment(DevmemFragmentKind.Linear, 0, (uint)result.Bytes, 0, 0);
            }

            ulong at = 0;
            int next = 0;
            try
            {
                for (; next < result.Fragments; next++)
                {
                    DevmemFragment fragment = fragments[next];
                    if (fragment.Kind == DevmemFragmentKind.Linear)
                    {
                        yield return fragment with { Offset = at };
                        at += fragment.LengthBytes;
                        continue;
                    }

                    yield return fragment;
                    connection.ReturnTokens([new TokenRange(fragment.Token, 1)]);
                }
            }
            finally
            {
                // Whoever stops early has not seen the rest of the batch: it goes back as what was seen does.
                if (next < result.Fragments)
                {
                    connection.ReturnTokens([
                        .. fragments[next..result.Fragments]
                            .Where(f => f.Token != 0).Select(f => new TokenRange(f.Token, 1)),
                    ]);
                }
            }
        }
    }
}
