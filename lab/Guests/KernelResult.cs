using System.Globalization;
using Wayleave.Core;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Guests;

/// <summary>What a system call answered, as records say it: a number, <c>ok</c>, or the name of the errno.</summary>
internal static class KernelResult
{
    /// <summary><c>ok</c>, or the errno of the call just made.</summary>
    internal static string Ok(long result) => result < 0 ? Name(Libc.Errno) : "ok";

    /// <summary>The number, or the errno of the call just made.</summary>
    internal static string Number(long result) =>
        result < 0 ? Name(Libc.Errno) : result.ToString(CultureInfo.InvariantCulture);

    /// <summary>The name of an errno; ESPIPE is none of the errors of the product.</summary>
    internal static string Name(int errno) => errno == 29
        ? "ESPIPE"
        : Enum.GetName((Errno)errno) ?? errno.ToString(CultureInfo.InvariantCulture);

    /// <summary>A result that the rest of a case needs.</summary>
    /// <exception cref="IOException">It is an error.</exception>
    internal static int Required(long result, string what) =>
        result >= 0 ? (int)result : throw new IOException($"{what}: {Name(Libc.Errno)}");
}
