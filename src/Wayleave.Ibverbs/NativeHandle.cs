using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Wayleave.Ibverbs;

// What C programs see lies in memory of C, with a handle of what it stands for in the eight bytes before it
// (native/objects.h). A handle is made when the object is made and freed when it is destroyed: a program that uses a
// destroyed object is as wrong here as it is with any other library.

/// <summary>From the structures of C programs to the objects behind them.</summary>
internal static unsafe class NativeHandle
{
    /// <summary>Keeps an object until <see cref="Free"/>.</summary>
    public static nint Make(object value) => GCHandle.ToIntPtr(GCHandle.Alloc(value));

    /// <summary>The object of a handle.</summary>
    public static T Get<T>(nint handle)
        where T : class => Unsafe.As<T>(GCHandle.FromIntPtr(handle).Target!);

    /// <summary>The object behind a structure.</summary>
    public static T Of<T>(void* structure)
        where T : class => Get<T>(((nint*)structure)[-1]);

    /// <summary>The object may go.</summary>
    public static void Free(nint handle) => GCHandle.FromIntPtr(handle).Free();
}
